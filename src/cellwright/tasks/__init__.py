"""What models are used for. A task takes a loaded model and a source of cells, and never asks for a family's name."""
