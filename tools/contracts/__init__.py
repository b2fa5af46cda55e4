"""The event contract as a product: schemas made from the event classes, and a gate against breaking them."""
