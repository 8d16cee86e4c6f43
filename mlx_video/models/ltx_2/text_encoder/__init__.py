"""From a prompt to what the transformer attends to: tokens, Gemma 3's hidden states, features, connectors, contexts."""

import logging


def _concerns_us(record: logging.LogRecord) -> bool:
    # On import transformers warns where there is no torch. None is needed: only its tokenizers are used.
    return "Models won't be available" not in record.getMessage()


logging.getLogger("transformers").addFilter(_concerns_us)
