"""Makes the small T5 models that the encoder's tests load, and the vectors that they have to give.

    python scripts/make_t5_models.py --out tests/data/t5

Needs transformers (made with 4.57 on torch 2.13, CPU, f32); nothing else in the project does, so it is run by hand and
its result is checked in. Each folder is a model in the layout of sentence-transformers: random weights, wide enough
apart that norms, distances, gates and the dense layer all show in the result. `texts.json` holds the texts,
`vectors.f32` in each folder their normalised vectors, little-endian f32, one after the other: the mean of what
`T5EncoderModel` makes of the tokens, the dense layer, length one.
"""

import argparse
import json
from pathlib import Path

import torch
from make_reference import ODD, SCRIPTS, SENTENCES, WORDS, texts_of_lengths
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import T5Config, T5EncoderModel

MOST_TOKENS = 512
HIDDEN = 48

# name: feed-forward, dense layer (width, bias, activation), number format of the files, number of files
MODELS = {
    "plain": ("relu", None, torch.float32, 1),
    "plain-dense": ("relu", (32, False, "torch.nn.modules.linear.Identity"), torch.float16, 1),
    "gated": ("gated-gelu", None, torch.float32, 2),
    "gated-dense": ("gated-gelu", (48, True, "torch.nn.modules.activation.Tanh"), torch.float16, 1),
}


def make_tokenizer():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", shrinking_factor=0.75
    )
    tokenizer.train_from_iterator(SENTENCES + SCRIPTS[:5] + WORDS, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    return tokenizer


def make_model(folder, tokenizer, seed):
    feed_forward, dense, dtype, files = MODELS[folder.name]
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=HIDDEN,
        d_kv=12,
        num_heads=3,
        d_ff=96,
        num_layers=2,
        feed_forward_proj=feed_forward,
        dropout_rate=0.0,
        use_cache=False,
    )
    model = T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                weight.normal_(1.0, 0.3)
            elif "relative_attention_bias" in name:
                weight.normal_(0.0, 1.5)
            elif "shared" in name or "embed_tokens" in name:
                weight.normal_(0.0, 1.0)
            else:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
            # What the files hold is what is computed with.
            weight.copy_(weight.to(dtype).float())
    kept = {
        name: weight.detach().to(dtype).contiguous().clone()
        for name, weight in model.named_parameters()
        if name != "encoder.embed_tokens.weight"
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["T5EncoderModel"]
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict(), indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    if files == 1:
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = sorted(kept)
        parts = [names[at::files] for at in range(files)]
        where = {}
        for at, part in enumerate(parts, 1):
            file = f"model-{at:05}-of-{files:05}.safetensors"
            save_file({name: kept[name] for name in part}, folder / file, metadata={"format": "pt"})
            where.update(dict.fromkeys(part, file))
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    modules = ["Transformer", "Pooling"] + (["Dense"] if dense else []) + ["Normalize"]
    listed = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=1) + "\n")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MOST_TOKENS}) + "\n")
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling) + "\n")
    after = torch.nn.Identity()
    if dense:
        width, bias, activation = dense
        linear = torch.nn.Linear(HIDDEN, width, bias=bias)
        with torch.no_grad():
            for weight in linear.parameters():
                weight.copy_(weight.to(dtype).float())
        (folder / "2_Dense").mkdir(exist_ok=True)
        said = {"in_features": HIDDEN, "out_features": width, "bias": bias, "activation_function": activation}
        (folder / "2_Dense/config.json").write_text(json.dumps(said) + "\n")
        weights = {f"linear.{name}": weight.to(dtype) for name, weight in linear.state_dict().items()}
        save_file(weights, folder / "2_Dense/model.safetensors", metadata={"format": "pt"})
        after = torch.nn.Sequential(linear, torch.nn.Tanh() if activation.endswith("Tanh") else torch.nn.Identity())
    return model, after


def vectors(model, after, tokenizer, texts):
    """One text at a time: no padding, so nothing but the text itself shapes its vector."""
    end = tokenizer.token_to_id("</s>")
    for text in texts:
        ids = tokenizer.encode(text).ids
        if len(ids) > MOST_TOKENS:
            ids = ids[: MOST_TOKENS - 1] + [end]
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            vector = after(hidden.mean(0))
            yield torch.nn.functional.normalize(vector, dim=0)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, required=True, help="folder for the models")
    out = arguments.parse_args().out

    tokenizer = make_tokenizer()

    def count(text):
        return len(tokenizer.encode(text).ids)

    # Nothing is left of the first two but the end.
    texts = ["", "\u0001\u0002", *texts_of_lengths(count, [2, 3, 31, 127, 511, 512]), " ".join(SENTENCES * 3)]
    texts += [*SCRIPTS, *ODD, *WORDS]
    print([count(text) for text in texts[:9]])
    assert count(texts[0]) == 1 and count(texts[8]) > MOST_TOKENS
    out.mkdir(parents=True, exist_ok=True)
    (out / "texts.json").write_text(json.dumps(texts, ensure_ascii=True, indent=0) + "\n")
    for seed, name in enumerate(MODELS):
        model, after = make_model(out / name, tokenizer, seed)
        made = torch.stack(list(vectors(model, after, tokenizer, texts)))
        (out / name / "vectors.f32").write_bytes(made.numpy().astype("<f4").tobytes())
        print(f"{name}: {len(texts)} vectors of {made.shape[1]}")


if __name__ == "__main__":
    main()
