"""The bundled sample catalogue, `coffee_makers.csv`."""
