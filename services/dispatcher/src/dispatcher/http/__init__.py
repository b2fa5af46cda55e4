"""The dispatcher's HTTP: routes and bodies, and which error of ours is which answer. No decisions."""
