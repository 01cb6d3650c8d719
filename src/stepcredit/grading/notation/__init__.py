"""How answers are written: numbers, units, words, intervals, LaTeX spelling."""
