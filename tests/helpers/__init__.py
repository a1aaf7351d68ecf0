"""What tests share: hand-made trees, tiny models, fake servers, pages and run folders."""
