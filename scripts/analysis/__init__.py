"""The teacher-forced forward pass: layers, experts and what is added up of them."""
