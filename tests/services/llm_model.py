"""A language model of random numbers, for the real llama.cpp: large enough to take a millisecond or two for a token.

It is a llama of four layers, whose vocabulary is bytes, letters and a few words, and which mostly says the words. It never ends
by itself, as the token that would end it is made unlikely.
"""

import sys

import gguf
import numpy

EMBEDDING, LAYERS, HEADS, KEY_HEADS, FEED, CONTEXT = 256, 4, 4, 2, 512, 2048
CONTROL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = "the miku sings a song of blue sky and green leaf hello world happy to see you today my friend let us play".split()
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary():
    """Tokens with their types; all but the words and letters are there for what a prompt may hold."""
    kinds = gguf.TokenType
    yield from zip(CONTROL, [kinds.UNKNOWN] + [kinds.CONTROL] * 4)
    yield from ((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256))
    # The way in which such vocabularies write a space.
    yield from ((f"\u2581{word}", kinds.NORMAL) for word in WORDS)
    yield from ((chr(letter), kinds.NORMAL) for letter in range(ord("a"), ord("z") + 1))


def write(path):
    tokens, types = zip(*vocabulary())
    spoken = len(CONTROL) + 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(tokens))
    writer.add_token_scores([0.0] * spoken + [-float(place) for place in range(len(tokens) - spoken)])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(CONTROL.index("<s>"))
    writer.add_eos_token_id(CONTROL.index("<|im_end|>"))
    writer.add_unk_token_id(CONTROL.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)

    random = numpy.random.default_rng(0)

    def tensor(name, *shape, scale=0.3):
        values = (random.standard_normal(shape) * scale).astype(numpy.float32)
        writer.add_tensor(name, values)
        return values

    ones = numpy.ones(EMBEDDING, numpy.float32)
    tensor("token_embd.weight", len(tokens), EMBEDDING)
    writer.add_tensor("output_norm.weight", ones)
    output = (random.standard_normal((len(tokens), EMBEDDING)) * 0.6).astype(numpy.float32)
    output[:spoken] *= 0.01
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
        keys = EMBEDDING // HEADS * KEY_HEADS
        for name, shape in [
            ("attn_q", (EMBEDDING, EMBEDDING)),
            ("attn_k", (keys, EMBEDDING)),
            ("attn_v", (keys, EMBEDDING)),
            ("attn_output", (EMBEDDING, EMBEDDING)),
            ("ffn_gate", (FEED, EMBEDDING)),
            ("ffn_up", (FEED, EMBEDDING)),
            ("ffn_down", (EMBEDDING, FEED)),
        ]:
            tensor(f"{block}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
