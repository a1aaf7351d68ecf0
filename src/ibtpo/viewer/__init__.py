"""Trees to look at: one offline HTML page, the same without JavaScript, and the terminal."""
