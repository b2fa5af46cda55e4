"""Weelo on Kubernetes: manifests in base and overlays, and the two scripts beside them."""
