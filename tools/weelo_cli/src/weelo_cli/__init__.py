"""The operators' command line. It never holds rules of the services: it calls what they and libs/common offer."""
