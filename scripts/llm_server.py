"""A real llama.cpp server with a model of random weights: llama-cpp-python over a prebuilt libllama.

`llm_server.py write-model FILE`, `llm_server.py serve [--model FILE] [--port N] [--threads N]`, `llm_server.py check`.
Its answers are nonsense in the form that the grammar allows, at the speed of a model of that size, so it tests what a
client sends and accepts, and how long the parts of a call take, but not what a model knows.
"""

import argparse
import ctypes
import os
import socket
import sys
import threading

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(HERE, ".deps", "llm-server")
LIBRARIES = os.path.join(FOLDER, "lib-llama")
MODEL = os.path.join(FOLDER, "tiny.gguf")
ALIAS = "tiny-random"
CONTEXT = 8192


def write_model(path, width=64, heads=4, layers=2, inner=128):
    """Writes a Llama of random weights: a vocabulary of all bytes and of the printable ASCII characters."""
    import gguf
    import numpy as np

    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    # The sign of this kind of vocabulary for a blank, and every visible character.
    tokens += [(token, kinds.NORMAL) for token in ["\N{LOWER ONE EIGHTH BLOCK}", *map(chr, range(33, 127))]]
    named = sum(kind == kinds.NORMAL for _, kind in tokens)
    scores = [0.0] * (len(tokens) - named) + [-1.0 - place for place in range(named)]

    model = gguf.GGUFWriter(path, "llama")
    model.add_name(ALIAS)
    model.add_file_type(gguf.LlamaFileType.ALL_F32)
    model.add_context_length(CONTEXT)
    model.add_embedding_length(width)
    model.add_feed_forward_length(inner)
    model.add_block_count(layers)
    model.add_head_count(heads)
    model.add_head_count_kv(heads)
    model.add_rope_dimension_count(width // heads)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_vocab_size(len(tokens))
    model.add_tokenizer_model("llama")
    model.add_token_list([token.encode() for token, _ in tokens])
    model.add_token_types([kind for _, kind in tokens])
    model.add_token_scores(scores)
    model.add_unk_token_id(0)
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_chat_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ")

    random = np.random.default_rng(17)

    def weights(*shape):
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    ones = np.ones(width, dtype=np.float32)
    model.add_tensor("token_embd.weight", weights(len(tokens), width))
    for layer in range(layers):
        block = f"blk.{layer}."
        model.add_tensor(block + "attn_norm.weight", ones)
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            model.add_tensor(f"{block}{name}.weight", weights(width, width))
        model.add_tensor(block + "ffn_norm.weight", ones)
        for name in ["ffn_gate", "ffn_up"]:
            model.add_tensor(f"{block}{name}.weight", weights(inner, width))
        model.add_tensor(block + "ffn_down.weight", weights(width, inner))
    model.add_tensor("output_norm.weight", ones)
    output = weights(len(tokens), width)
    # Bytes beyond ASCII never win, so that a character is a token, and a bound of characters one of tokens too. Control
    # characters may: llama-cpp-python's grammar lets them into strings, where JSON has none.
    output[[at for at, (token, kind) in enumerate(tokens) if kind == kinds.BYTE and token >= "<0x80>"]] = 0
    model.add_tensor("output.weight", output)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def load_libllama():
    """Loads libllama and, of its processor libraries, the one that fits this machine."""
    os.environ["LLAMA_CPP_LIB_PATH"] = LIBRARIES
    ggml = ctypes.CDLL(os.path.join(LIBRARIES, "libggml.so"), mode=ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(LIBRARIES.encode())
    import llama_cpp

    return llama_cpp


def end_with_standard_input():
    """Ends the process when its standard input closes, so that it does not outlive who started it."""

    def wait():
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def serve(options):
    load_libllama()
    import uvicorn
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    # `interrupt_requests` is on by default, and a new call then ends the running one.
    server = ServerSettings(interrupt_requests=False, api_key=options.api_key)
    model = ModelSettings(
        model=options.model, model_alias=ALIAS, n_ctx=CONTEXT, n_threads=options.threads,
        n_threads_batch=options.threads, logits_all=options.logprobs, verbose=False,
    )
    app = create_app(server_settings=server, model_settings=[model])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.port))
    listener.listen(1024)
    if options.until_stdin_closes:
        end_with_standard_input()
    print(f"LLM server ready on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def check():
    """Loads the model and lets it say something."""
    llama_cpp = load_libllama()
    llm = llama_cpp.Llama(MODEL, n_ctx=256, n_threads=1, verbose=False)
    said = llm.create_completion("This is ", max_tokens=4)["usage"]["completion_tokens"]
    assert said > 0, "the model says nothing"
    print(f"llm_server: llama-cpp-python {llama_cpp.__version__}")


def main():
    parser = argparse.ArgumentParser(description="A real llama.cpp server with a model of random weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    writes = commands.add_parser("write-model")
    writes.add_argument("path")
    for name, default in [("width", 64), ("heads", 4), ("layers", 2), ("inner", 128)]:
        writes.add_argument(f"--{name}", type=int, default=default)
    serves = commands.add_parser("serve")
    serves.add_argument("--model", default=MODEL)
    serves.add_argument("--port", type=int, default=0, help="0 takes a free one")
    serves.add_argument("--threads", type=int, default=1)
    serves.add_argument("--api-key", default=None)
    serves.add_argument("--logprobs", action="store_true", help="keep the logits of all tokens, for `logprobs`")
    serves.add_argument("--until-stdin-closes", action="store_true")
    commands.add_parser("check")
    options = parser.parse_args()
    if options.command == "write-model":
        write_model(options.path, options.width, options.heads, options.layers, options.inner)
    elif options.command == "serve":
        serve(options)
    else:
        check()


if __name__ == "__main__":
    sys.exit(main())
