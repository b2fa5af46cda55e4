"""``python -m order_api`` serves; ``python -m order_api migrate`` migrates."""

from order_api.main import main

main()
