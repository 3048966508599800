"""What a configuration may say: schemas of our own, the checks compiled from them, and their explanations."""
