"""What training is made of, as data, and what one step of it takes and gives."""
