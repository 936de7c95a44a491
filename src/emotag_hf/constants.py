"""Shared names: emotions, action units, expression directions, file names. Imports nothing.

The order of each tuple is part of every checkpoint: append, never reorder.
"""

SAMPLE_RATE = 16_000  # Hz, mono, what every audio front end receives
MOTION_FPS = 25  # frames per second at which GRMN works (METHOD 1)

# The order of z_e (METHOD 4, the classes of the paper's facial-emotion teacher).
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# The six OpenFace action units that GRMN reads (METHOD 3), intensities 0..5.
GRMN_ACTION_UNITS = ("AU01", "AU04", "AU05", "AU06", "AU07", "AU45")

# Every action unit that a processed clip holds, intensities 0..5 as OpenFace gives them.
ACTION_UNITS = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU12", "AU15", "AU17", "AU20", "AU25", "AU26", "AU45",
)  # fmt: skip

# The 50 expression directions (psi), named as in ARKit and FACS and split into sides as in ICT-FaceKit; coefficients
# nominally in [0, 1]. Blinks are `eyelids`, gaze is `eyes_pose` and jaw opening is `jaw_pose`: none of the three is in
# this list. `_L` and `_R` are the person's own left and right; the person's left is at +x.
EXPRESSION_NAMES = (
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R",
    "cheekPuff_L", "cheekPuff_R", "cheekRaiser_L", "cheekRaiser_R", "cheekSquint_L", "cheekSquint_R",
    "eyeSquint_L", "eyeSquint_R", "eyeWide_L", "eyeWide_R",
    "jawForward", "jawLeft", "jawRight",
    "mouthClose", "mouthDimple_L", "mouthDimple_R", "mouthFrown_L", "mouthFrown_R", "mouthFunnel", "mouthLeft",
    "mouthLowerDown_L", "mouthLowerDown_R", "mouthPress_L", "mouthPress_R", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmile_L", "mouthSmile_R",
    "mouthStretch_L", "mouthStretch_R", "mouthUpperUp_L", "mouthUpperUp_R", "noseSneer_L", "noseSneer_R",
    "tongueOut", "tongueUp", "nostrilDilate", "nostrilCompress", "neckTighten_L", "neckTighten_R",
)  # fmt: skip

# Motion parameters, fixed for the whole project: name -> (dim, unit). Axis-angle is in radians.
MOTION_DIMS = {
    "expression": 50,  # coefficients
    "jaw_pose": 3,  # axis-angle of the jaw joint; +x opens
    "eyelids": 2,  # [left, right] closure, 0 open .. 1 closed
    "eyes_pose": 6,  # axis-angle of the left, then the right eye
    "neck_pose": 3,  # axis-angle of the neck joint
    "rotation": 3,  # axis-angle of the root joint
    "translation": 3,  # metres, world, y up
}

# Joint order of the parametric head (FLAME's).
JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MODEL_INDEX_NAME = "model_index.json"
PROCESSOR_NAME = "processor_config.json"
DEFAULT_MODEL = "emotag-base"  # a folder in assets/: trained on real people, research only
OPEN_MODEL = "emotag-base-open"  # a folder in assets/: trained on open data alone, Apache-2.0
DEFAULT_EAR = "ear-open"  # a file in assets/: hears speech for OPEN_MODEL and for networks that name no ear
DEFAULT_PRIOR = "emotag-gaussian-prior"  # a folder in assets/
OPEN_HEAD = "open_head.safetensors"  # a file in assets/
TASK = "talking-head"
