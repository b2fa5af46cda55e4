"""Contracts and mechanisms that the Weelo services share; never a service's rules, tables or names."""
