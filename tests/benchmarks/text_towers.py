"""What Hugging Face text towers gain at the real length of texts: `python tests/benchmarks/text_towers.py`.

Random weights, and token lengths as of COCO's captions: no file is read.
"""

from __future__ import annotations

import argparse
import tempfile

import captions
import measure
import open_clip
import torch
from transformers import BertConfig, RobertaConfig

from open_clip_ext.model.text_trimming import tower_of, trim

CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig}
K = 4


def create(kind: str, layers: int) -> torch.nn.Module:
    """A tower as wide as BERT's base model beside ViT-B/32, without dropout."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        config = {"vocab_size": 30000, "num_hidden_layers": layers, "max_position_embeddings": 514, **rates}
        CONFIGS[kind](**config).save_pretrained(folder)
        text = {"hf_model_name": folder, "hf_model_pretrained": False}
        vision = open_clip.get_model_config("ViT-B-32")["vision_cfg"]
        return open_clip.CustomTextCLIP(512, vision, text, output_dict=True).to(measure.DEVICE)


def tokens(batch: int, padding: int) -> torch.Tensor:
    """`[batch, 77]` token ids."""
    made, edited = captions.made(batch // (1 + K), K)
    texts = [*made, *(text for row in edited for text in row)]
    ids = torch.full((len(texts), 77), padding)
    for row, text in zip(ids, texts, strict=True):
        length = len(text.split()) + 2  # with what begins and ends it
        row[:length] = torch.randint(2, 30000, (length,))
    return ids.to(measure.DEVICE)


def main() -> None:
    """Print the ratios of pairs, of the text tower and of a step with its images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in CONFIGS:
        torch.manual_seed(0)
        model = create(kind, args.layers)
        ids = tokens(args.batch * (1 + K), model.text.config.pad_token_id)
        images = torch.randn(args.batch, 3, 224, 224, device=measure.DEVICE)
        assert trim(model, ids.new_full((77,), model.text.config.pad_token_id)) is None
        tower = tower_of(model)

        def step(encode, images=None, model=model, ids=ids):
            features = encode(ids, True)
            if images is not None:
                features = torch.cat([features, model.encode_image(images, True)])
            features[:, 0].sum().backward()
            model.zero_grad()

        for what, shown in (("text tower", None), ("with images", images)):
            found = measure.in_turns(
                lambda s=step, t=tower, shown=shown: s(t.run, shown),
                lambda s=step, m=model, shown=shown: s(m.encode_text, shown),
                args.pairs,
                f"{kind}, {what}",
            )
            print(kind, what, {name: round(value, 2) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
