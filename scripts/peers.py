"""The peers of the encoder's bench: sentence-transformers and ONNX Runtime, driven over standard input and output.

    .deps/peers/bin/python scripts/peers.py --model FOLDER

One JSON object a line, each answered by one: {"texts": [...], "threads": N} loads everything and finds the best
batch size of each peer; {"round": PEER} encodes all texts and says how long it took; {"vectors": PEER, "texts": N}
gives the vectors of the first texts. Texts go in sorted by length and in batches, as sentence-transformers does itself.
The ONNX model is exported here from the same folder, f32, and kept beside the environment.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

# Parts of a CUDA build that nothing calls may be missing: names are looked up when they are called.
sys.setdlopenflags(os.RTLD_LAZY)
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoModel, T5EncoderModel  # noqa: E402

BATCHES = (8, 16, 32, 64)
# Texts that batch sizes are compared with, and how often each size is tried.
TRIAL_TEXTS = 96
TRIALS = 2


class Torch:
    """sentence-transformers as it is used: its own sorting, batching, pooling."""

    def __init__(self, folder, dtype):
        self.model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
        if dtype != torch.float32:
            # Dense layers are read in their own format.
            self.model = self.model.to(dtype)

    def encode(self, texts, batch):
        vectors = self.model.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


class Onnx:
    """ONNX Runtime on the exported network; tokenizing, mean and length one as in the recipe."""

    def __init__(self, folder, tower, threads):
        path = exported(folder, tower)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = tower.tokenizer
        self.longest = tower.max_seq_length

    def encode(self, texts, batch):
        order = sorted(range(len(texts)), key=lambda nth: len(texts[nth]), reverse=True)
        vectors = [None] * len(texts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            tokens = self.tokenizer(
                [texts[nth] for nth in part],
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="np",
            )
            inputs = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
            (found,) = self.session.run(None, inputs)
            for nth, vector in zip(part, found):
                vectors[nth] = vector
        return np.stack(vectors)


class Whole(torch.nn.Module):
    """From token ids to vectors of length one: the network, then the other modules of the folder."""

    def __init__(self, network, modules):
        super().__init__()
        self.network = network
        self.modules_after = torch.nn.ModuleList(modules)

    def forward(self, input_ids, attention_mask):
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        features = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for module in self.modules_after:
            features = module(features)
        return torch.nn.functional.normalize(features["sentence_embedding"], dim=1)


def exported(folder, tower):
    """The ONNX file of a folder, made when there is none of these weights."""
    weights = sorted(folder.glob("*.safetensors"))
    facts = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in weights]
    facts += [torch.__version__, Path(__file__).read_text()]
    key = hashlib.sha256("\n".join([str(folder), *facts]).encode()).hexdigest()[:16]
    path = Path(sys.prefix) / "onnx" / key / "model.onnx"
    if path.exists():
        return path
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    family = T5EncoderModel if kind in ("t5", "mt5") else AutoModel
    network = family.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    whole = Whole(network, list(tower)[1:]).eval()
    tokens = tower.tokenizer(["A short text.", "Another one, which is longer."], padding=True, return_tensors="pt")
    axes = {0: "texts", 1: "tokens"}
    # A big network leaves files beside the model.
    part = path.parent.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        whole,
        (tokens["input_ids"], tokens["attention_mask"]),
        str(part / path.name),
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "texts"}},
        opset_version=17,
        dynamo=False,
    )
    part.rename(path.parent)
    return path


class Peers:
    def __init__(self, folder):
        self.folder = folder
        self.peers = {}
        self.batches = {}
        self.texts = []

    def load(self, texts, threads):
        torch.set_num_threads(threads)
        self.texts = texts
        tower = Torch(self.folder, torch.float32)
        self.peers = {
            "sentence_transformers.f32": tower,
            "sentence_transformers.bf16": Torch(self.folder, torch.bfloat16),
            "onnx.f32": Onnx(self.folder, tower.model, threads),
        }
        part = texts[:: max(1, len(texts) // TRIAL_TEXTS)][:TRIAL_TEXTS]
        for name, peer in self.peers.items():
            peer.encode(part, BATCHES[0])
            took = {batch: [] for batch in BATCHES}
            for _ in range(TRIALS):
                for batch, times in took.items():
                    times.append(seconds(lambda: peer.encode(part, batch)))
            self.batches[name] = min(BATCHES, key=lambda batch: min(took[batch]))
        return {"batches": self.batches}

    def answer(self, request):
        if "round" in request:
            name = request["round"]
            return {"seconds": seconds(lambda: self.peers[name].encode(self.texts, self.batches[name]))}
        if "vectors" in request:
            name = request["vectors"]
            texts = self.texts[: request["texts"]]
            return {"vectors": self.peers[name].encode(texts, self.batches[name]).tolist()}
        return self.load(request["texts"], request["threads"])


def seconds(work):
    start = time.perf_counter()
    with torch.inference_mode():
        work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--check", action="store_true", help="only see that everything loads and computes")
    arguments = parser.parse_args()
    if arguments.check:
        torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))
        print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
        return
    # What a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peers = Peers(arguments.model.resolve())
    for line in sys.stdin:
        print(json.dumps(peers.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
