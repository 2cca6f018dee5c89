"""The errors of camtrain: one small family, each message states the rule, the value and the remedy."""


class CamtrainError(Exception):
    """Base of every error that camtrain raises on purpose."""


class LayerError(CamtrainError, ValueError):
    """A layer that does not exist, or whose output cannot be read as a map."""


class MethodError(CamtrainError, ValueError):
    """A method name that is not known."""


class BatchError(CamtrainError, ValueError):
    """A batch that cannot be read as images, labels and masks."""


class MaskError(BatchError):
    """A mask of another size than its image, or with values outside {-1} and [0, 1]."""


class DataError(CamtrainError, ValueError):
    """Files that are missing, corrupt or inconsistent."""


class ConfigurationError(CamtrainError, ValueError):
    """Arguments or a Trainer that cannot work together."""


class GradientError(CamtrainError, RuntimeError):
    """A score or penalty that does not depend on what it must depend on."""
