"""Small models, builds and records that several tests make."""
