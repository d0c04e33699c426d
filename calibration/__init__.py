"""From images to the table of activation ranges that quantisation needs."""
