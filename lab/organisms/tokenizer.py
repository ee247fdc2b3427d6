"""The organisms' character tokenizer, as a real transformers tokenizer file."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def chain_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a character of `alphabet`, which has `.`, after `[PAD]` = 0 and `[UNK]` = 1; `.` ends a sequence.

    No token is added on encoding: a prompt carries its own `<`.
    """
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token=".",
        padding_side="left",
        model_max_length=160,
        clean_up_tokenization_spaces=False,
    )
