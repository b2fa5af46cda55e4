"""``python -m expiry`` serves, ``python -m expiry migrate`` brings the database up to date."""

from expiry.main import main

if __name__ == "__main__":
    main()
