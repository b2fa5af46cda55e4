"""Weelo on AWS ECS: the documents of each service, and the scripts that roll them out.

`python -m deploy.ecs --help` lists the commands. docs/production.md says when to use which.
"""
