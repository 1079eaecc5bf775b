"""Tables of files and of engines, as they are measured before they are handed on."""
