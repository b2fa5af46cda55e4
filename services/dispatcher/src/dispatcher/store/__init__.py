"""The dispatcher's SQL: plain, parameterised, one statement a purpose. It decides nothing.

Locks are taken in one order everywhere: order rows sorted by id, then captain rows sorted by id. Offers and truck
requests change only under their order's row lock, and a captain gets an offer only under his.
"""
