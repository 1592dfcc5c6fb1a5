"""Result objects, judged by other people's programs."""
