"""Templates of the files that 'aqvolt init' writes."""
