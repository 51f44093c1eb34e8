"""HealthiVert-guided attention: a fracture classifier and the Grad-CAM++ heatmaps of its evidence."""
