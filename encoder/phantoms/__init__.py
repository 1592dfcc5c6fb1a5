"""Films of nobody: real films' contours and textures in, a small statistical model out, drawn films with true boxes.

`build` is the researcher's command, `draw` what the demo and the tests use. numpy and scipy only, no torch.
"""
