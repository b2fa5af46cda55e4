"""What happens on each command and event: load under lock, decide, save, append events, in one transaction."""
