"""What docker-compose.yml needs on a laptop before its first start."""
