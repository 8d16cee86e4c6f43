"""A clip that leads from one picture to another: the first is frame 0, the second the last frame.

python examples/first_and_last_frame.py first.png last.png out.mp4 [MODEL]
"""

import sys

from mlx_video import ImageAt, LTXPipeline

first, last, path, *model = sys.argv[1:]
with LTXPipeline.from_pretrained(*model or ["Lightricks/LTX-2"]) as pipe:
    clip = pipe.generate(prompt="The camera glides from one view to the other", image=[first, ImageAt(last, "last")])
    clip.save(path)
