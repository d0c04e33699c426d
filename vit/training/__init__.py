"""Training: the digits' own recipe, and a recipe for image folders that can be resumed."""
