"""The text screen and the keyboard of the machine, for people: pictures, a terminal that shows them, names of keys."""
