"""A prompt to a video with sound: the shortest use of the Python API.

python examples/text_to_video.py "waves at night" waves.mp4 [MODEL]
"""

import sys

from mlx_video import LTXPipeline

prompt, path, *model = sys.argv[1:]
with LTXPipeline.from_pretrained(*model or ["Lightricks/LTX-2"]) as pipe:
    clip = pipe.generate(prompt=prompt, height=512, width=768, num_frames=97, seed=7)
    clip.save(path)
    print(clip)
