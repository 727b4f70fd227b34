"""Files to and from the model: each module has one format as its subject and imports heavy libraries only when used."""
