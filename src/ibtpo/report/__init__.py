"""Pages for people: what a run or a file of trees holds, each as one HTML file that opens offline."""
