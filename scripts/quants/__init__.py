"""Quants: recipes, tiers, plans, target sizes, and the record of a built file."""
