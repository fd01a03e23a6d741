"""Makes tiny models with the reference libraries, and what these answer: the fixtures of the parity tests.

    python3 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt
    .venv/bin/python tests/parity/make.py            # writes tests/parity/models and tests/parity/tokenizers
    .venv/bin/python tests/parity/make.py mpnet      # of what begins so alone, with the tokenizers that are there

Weights are random and seeded. Every input is scored by itself, unpadded, in 32-bit floats. The tokenizers are trained anew where all is made, and
break ties as they like: the files of one run belong together, and another run's differ. Models with the same tokenizer link to one file.
"""
import json, os, pathlib, shutil, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Model,
    DistilBertConfig, DistilBertForSequenceClassification, DistilBertModel, ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel,
    MPNetConfig, MPNetForSequenceClassification, MPNetModel, NomicBertConfig, NomicBertModel, PreTrainedTokenizerFast, RobertaConfig,
    RobertaForSequenceClassification, RobertaModel, XLMRobertaConfig, XLMRobertaForSequenceClassification,
)

HERE = pathlib.Path(__file__).parent / "models"
TOKENIZERS = HERE.parent / "tokenizers"
LONGEST = 48

CORPUS = """the quick brown fox jumps over the lazy dog and then it sleeps for a very long time in the warm sun
I love this film it was wonderful the actors were great and the story kept me watching until the end
this was the worst meal I have ever had the service was slow and the soup was cold never again
Der schnelle braune Fuchs springt über den faulen Hund während die Bäckerin frische Brötchen verkauft
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί καλημέρα κόσμε
今天天气很好我们去公园散步吧 日本語のテキストもあります ひらがな カタカナ
الطقس جميل اليوم نذهب إلى الحديقة मौसम आज बहुत अच्छा है สวัสดีชาวโลก
numbers 0 1 2 3 4 5 6 7 8 9 2024 3.14 prices $5 €7 50% off! (really?) [yes] {no} "quoted" 'single' a-b_c
emoji 🙂 👍🏽 👩‍👩‍👧 ❤️ naïve café résumé coöperate e\u0301 a\u0308""".splitlines()

WORDS = " ".join(CORPUS[:3]).split()
TEXTS = [
    "good", "a", "7", "The quick brown fox jumps over the lazy dog.", "I LOVE this film!!!", "  spaces   and\ttabs\n and lines  ",
    "Der schnelle Fuchs über den faulen Hund", "καλημέρα κόσμε", "今天天气很好我们去公园散步吧", "日本語のテキスト", "الطقس جميل اليوم",
    "मौसम आज बहुत अच्छा है", "สวัสดีชาวโลก", "🙂", "👍🏽 👩‍👩‍👧 ❤️", "naïve café résumé", "e\u0301 a\u0308 o\u0302", "...!?,;:", "\U00010348\U0001F9FF",
    "bell\u0007 and \u200b zero width", "ǅ ﬁ Ⅷ ½", "supercalifragilisticexpialidocious" * 3, " ".join(WORDS[:20]), " ".join(WORDS[:45]),
    " ".join(WORDS * 8), "x " * 300,
    "a <pad> in a <mask> of [PAD] tokens",
]
PAIRS = [
    ("what is a fox", "The quick brown fox jumps over the lazy dog."), ("a", "b"), ("empty second", ""), ("καλημέρα", "今天天气很好"),
    (" ".join(WORDS * 4), " ".join(reversed(WORDS * 3))), (" ".join(WORDS * 3), " ".join(reversed(WORDS * 4))), (" ".join(WORDS * 4), "short"), ("short", " ".join(WORDS * 4)), ("🙂", "👍🏽"),
    ("equal", "equal"), ("numbers 3.14", "$5 €7 50% off!"),
]


SQUARE = dict(unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
ANGLED = dict(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", mask_token="<mask>")
MPNET = dict(ANGLED, unk_token="[UNK]")
KIND = dict()


def tokenizer(kind, words, train):
    """The tokenizer of that kind: trained, or read where only some models are made."""
    file = TOKENIZERS / f"{kind}.json"
    t = Tokenizer.from_file(str(file)) if file.exists() else train()
    fast = PreTrainedTokenizerFast(tokenizer_object=t, **words)
    KIND[id(fast)] = (kind, fast)
    return fast


def template(t, first, last, between="", second=0):
    pair = [f"{first}:0", "$A:0", f"{last}:0", between, f"$B:{second}", f"{last}:{second}"]
    t.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0", pair=" ".join(part for part in pair if part),
        special_tokens=[(word, t.token_to_id(word)) for word in (first, last)])


def wordpiece(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), **ends):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=320, special_tokens=list(special), show_progress=False, limit_alphabet=150))
    template(t, **(ends or dict(first="[CLS]", last="[SEP]", second=1)))
    t.decoder = decoders.WordPiece()
    return t


def bytelevel(special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"), **ends):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=330, special_tokens=list(special), show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ends:
        template(t, **ends)
    else:
        t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")), add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return t


def unigram(special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"), unknown="<unk>", **ends):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=list(special), unk_token=unknown, show_progress=False))
    template(t, **(ends or dict(first="<s>", last="</s>", between="</s>:0")))
    t.decoder = decoders.Metaspace()
    return t


SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, initializer_range=0.3)
BERT = dict(SIZES, max_position_embeddings=64, type_vocab_size=2)
ROBERTA = dict(SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5)
DISTIL = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, initializer_range=0.3, max_position_embeddings=64)
LABELS = dict(id2label={0: "negative", 1: "neutral", 2: "positive"}, label2id={"negative": 0, "neutral": 1, "positive": 2})


def shake(model):
    """Random biases and norms too: freshly made ones are all zeros and ones."""
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data.normal_(0, 0.2)
        elif "norm" in name.lower():
            p.data.normal_(1, 0.2)


def share(file, kind):
    """Replaces a tokenizer by a link to the one file of its kind."""
    TOKENIZERS.mkdir(exist_ok=True)
    shared = TOKENIZERS / f"{kind}.json"
    if shared.exists():
        assert shared.read_bytes() == file.read_bytes(), f"{file} is another one than {shared}"
        file.unlink()
    else:
        file.rename(shared)
    file.symlink_to(os.path.relpath(shared, file.parent))


def make(name, config, kind, tokenizer, after, pairs=False, sentence=None, rewrite=None, **save):
    if not name.startswith(tuple(sys.argv[1:])) and sys.argv[1:]:
        return
    token_kind = KIND[id(tokenizer)][0]
    torch.manual_seed(sum(name.encode()))
    folder = HERE / name
    model = kind(config).eval().float()
    shake(model)
    if save.pop("half", False):
        model = model.half()
    model.save_pretrained(folder, **save)
    tokenizer.model_max_length = LONGEST
    tokenizer.save_pretrained(folder)
    share(folder / "tokenizer.json", token_kind)
    if name.endswith("-left"):
        config_file = folder / "tokenizer_config.json"
        config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "truncation_side": "left"}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = model.float()
    inputs, outputs, truncated = [], [], []
    dense = None
    if sentence:
        dense = write_sentence_folder(folder, sentence)
    # What isn't in the transformer is sentence-transformers' own work.
    encoder, before = None, 0
    if sentence and {"config", "width"} & set(sentence):
        from sentence_transformers import SentenceTransformer
        width = sentence.get("width")
        encoder = SentenceTransformer(str(folder), device="cpu", truncate_dim=width)
        encode = encoder.encode
        encoder.encode = lambda texts: torch.from_numpy(encode(texts, normalize_embeddings=width is not None))
        name = sentence.get("config", {}).get("default_prompt_name")
        before = len(tokenizer(sentence["config"]["prompts"][name], add_special_tokens=False)["input_ids"]) if name else 0
    for text, pair in [(t, None) for t in TEXTS if not (pairs == "only")] + (PAIRS if pairs else []):
        # In lists, as a batch is given: by itself, an empty second text counts as none at all.
        given = ([text],) if pair is None else ([text], [pair])
        # As the tokenizer classes of each architecture do; the plain fast tokenizer leaves the types out.
        types = getattr(config, "type_vocab_size", 0) > 1
        e = tokenizer(*given, truncation=True, max_length=LONGEST, return_tensors="pt", return_token_type_ids=types)
        full = tokenizer(*given, truncation=False)
        with torch.no_grad():
            out = encoder.encode([text]) if encoder else after(model(**e), dense)
        inputs.append({"text": text} if pair is None else {"text": text, "text_pair": pair})
        outputs.append([float(f"{x:.9g}") for x in out.flatten().tolist()])
        truncated.append(len(full["input_ids"][0]) + before > LONGEST)
    if rewrite:
        rewrite(folder)
    (folder / "expected.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs, "truncated": truncated}, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_sentence_folder(folder, sentence):
    kinds = ["Transformer", "Pooling"] + (["Dense"] if "dense" in sentence else []) + (["Normalize"] if sentence.get("normalise") else [])
    modules = [{"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    mode = sentence["pooling"]
    (folder / "1_Pooling/config.json").write_text(json.dumps({
        "word_embedding_dimension": 32, "pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean",
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False, "include_prompt": not sentence.get("apart", False)}))
    if "config" in sentence:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(sentence["config"]))
    if "dense" not in sentence:
        return None
    from safetensors.torch import save_file
    dense = torch.nn.Linear(32, sentence["dense"])
    (folder / "2_Dense").mkdir(exist_ok=True)
    (folder / "2_Dense/config.json").write_text(json.dumps({
        "in_features": 32, "out_features": sentence["dense"], "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}))
    save_file({"linear.weight": dense.weight.data, "linear.bias": dense.bias.data}, folder / "2_Dense/model.safetensors")
    return dense


def probabilities(out, _):
    return out.logits.softmax(-1)


def sigmoids(out, _):
    return out.logits.sigmoid()


def raw(out, _):
    return out.logits


def mean(out, _):
    return out.last_hidden_state.mean(1)


def unit_mean(out, _):
    return torch.nn.functional.normalize(out.last_hidden_state.mean(1), dim=-1)


def cls(out, _):
    return out.last_hidden_state[:, 0]


def as_nomic(folder):
    """Writes the configuration as Nomic's own code does; the tensors are called so already."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "activation_function": "swiglu", "n_embd": 32, "n_head": 4, "n_inner": 64, "n_layer": 2, "n_positions": 64,
        "vocab_size": config["vocab_size"], "type_vocab_size": 2, "layer_norm_epsilon": 1e-12, "max_trained_positions": 64, "prenorm": False, "causal": False,
        "parallel_block": False, "use_rms_norm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None}, indent=2))


def cls_dense(out, dense):
    return torch.tanh(dense(out.last_hidden_state[:, 0]))


if not sys.argv[1:]:
    for folder in (HERE, TOKENIZERS):
        if folder.exists():
            shutil.rmtree(folder)
wp, bl, ug = tokenizer("wordpiece", SQUARE, wordpiece), tokenizer("bpe", ANGLED, bytelevel), tokenizer("unigram", ANGLED, unigram)
mp = tokenizer("wordpiece-mpnet", MPNET, lambda: wordpiece(
    ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"), first="<s>", last="</s>", between="</s>:0"))
bert = lambda **more: BertConfig(vocab_size=len(wp), **BERT, **more)
roberta = lambda **more: RobertaConfig(vocab_size=len(bl), **ROBERTA, **more)
distil = lambda **more: DistilBertConfig(vocab_size=len(wp), **DISTIL, **more)
xlmr = lambda **more: XLMRobertaConfig(vocab_size=len(ug), **ROBERTA, **more)
make("bert-classifier", bert(**LABELS), BertForSequenceClassification, wp, probabilities, pairs=True)
make("bert-multi-label", bert(problem_type="multi_label_classification", hidden_act="gelu_new", **LABELS), BertForSequenceClassification, wp, sigmoids)
make("bert-regression", bert(num_labels=1, problem_type="regression", hidden_act="relu"), BertForSequenceClassification, wp, raw)
make("bert-cross-encoder", bert(num_labels=1), BertForSequenceClassification, wp, sigmoids, pairs="only")
make("bert-left", bert(**LABELS), BertForSequenceClassification, wp, probabilities, pairs=True)
make("bert-reranker", bert(num_labels=1), BertForSequenceClassification, wp, raw, pairs="only")
(HERE / "bert-reranker/config_sentence_transformers.json").write_text(json.dumps({"activation_fn": "torch.nn.modules.linear.Identity"}))
make("bert-sharded", bert(**LABELS), BertForSequenceClassification, wp, probabilities, max_shard_size="30KB")
make("bert-half", bert(**LABELS), BertForSequenceClassification, wp, probabilities, half=True)
make("bert-sentence", bert(), BertModel, wp, unit_mean, sentence={"pooling": "mean", "normalise": True})
make("bert-sentence-dense", bert(), BertModel, wp, cls_dense, sentence={"pooling": "cls", "dense": 24})
make("bert-base", bert(), BertModel, wp, mean)
make("distilbert-classifier", distil(**LABELS), DistilBertForSequenceClassification, wp, probabilities)
make("distilbert-base", distil(), DistilBertModel, wp, mean)
make("roberta-classifier", roberta(**LABELS), RobertaForSequenceClassification, bl, probabilities, pairs=True)
make("roberta-base", roberta(), RobertaModel, bl, mean)
make("xlm-roberta-classifier", xlmr(**LABELS), XLMRobertaForSequenceClassification, ug, probabilities, pairs=True)
mpnet = lambda **more: MPNetConfig(vocab_size=len(mp), **SIZES, max_position_embeddings=66, layer_norm_eps=1e-5, **more)
make("mpnet-sentence", mpnet(), MPNetModel, mp, unit_mean, sentence={"pooling": "mean", "normalise": True})
make("mpnet-classifier", mpnet(**LABELS), MPNetForSequenceClassification, mp, probabilities, pairs=True)
square = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
mb = tokenizer("bpe-square", SQUARE, lambda: bytelevel(square, first="[CLS]", last="[SEP]"))
de = tokenizer("unigram-square", SQUARE, lambda: unigram(square, unknown="[UNK]", first="[CLS]", last="[SEP]", second=1))
FOUR = dict(SIZES, num_hidden_layers=4)
modern = lambda **more: ModernBertConfig(
    vocab_size=len(mb), max_position_embeddings=64, local_attention=12, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, **FOUR, **more)
make("modernbert-sentence", modern(), ModernBertModel, mb, cls, sentence={"pooling": "cls"})
make("modernbert-classifier", modern(**LABELS), ModernBertForSequenceClassification, mb, probabilities, pairs=True)
make("modernbert-biased", modern(
    num_labels=1, classifier_pooling="mean", attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True), ModernBertForSequenceClassification, mb, sigmoids, pairs="only")
nomic = lambda **more: NomicBertConfig(vocab_size=len(wp), max_position_embeddings=64, **SIZES, **more)
make("nomic-base", nomic(), NomicBertModel, wp, mean)
make("nomic-hub", nomic(), NomicBertModel, wp, unit_mean, sentence={"pooling": "mean", "normalise": True}, rewrite=as_nomic)
deberta = lambda **more: DebertaV2Config(
    vocab_size=len(de), max_position_embeddings=64, relative_attention=True, position_biased_input=False, pos_att_type="p2c|c2p", share_att_key=True,
    norm_rel_ebd="layer_norm", type_vocab_size=0, **SIZES, **more)
make("deberta-classifier", deberta(position_buckets=8, **LABELS), DebertaV2ForSequenceClassification, de, probabilities, pairs=True)
make("deberta-cross-encoder", deberta(position_buckets=16, num_labels=1), DebertaV2ForSequenceClassification, de, sigmoids, pairs="only")
make("deberta-base", DebertaV2Config(
    vocab_size=len(de), max_position_embeddings=64, relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=True, type_vocab_size=2, **SIZES), DebertaV2Model, de, mean)
prompts = {"prompts": {"query": "find: ", "passage": "read:\n", "plain": ""}, "default_prompt_name": "query"}
make("bert-prompt", bert(), BertModel, wp, unit_mean, sentence={"pooling": "mean", "normalise": True, "config": prompts})
make("bert-prompt-apart", bert(), BertModel, wp, mean, sentence={"pooling": "mean", "config": prompts, "apart": True})
make("mpnet-matryoshka", mpnet(), MPNetModel, mp, unit_mean, sentence={"pooling": "mean", "normalise": True, "width": 16})
