"""How Weelo dispatch is run: the Dockerfile, compose, k8s, ECS, and the local stack (`deploy.local`)."""
