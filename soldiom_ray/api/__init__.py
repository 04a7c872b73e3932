"""The REST API: writes rows, launches jobs, asks deployed models. It holds no model and imports no torch."""
