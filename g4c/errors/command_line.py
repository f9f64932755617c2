"""Catalogue of command line errors."""

from __future__ import annotations

from g4c.errors import Entry

USAGE = 2

CATALOGUE: dict[str, Entry] = {
    "G4C-C001": Entry(
        "wrong usage",
        "The command line does not parse: an unknown verb or option, a missing argument, or a value that is not of "
        "the option's type. `g4c VERB --help` shows what the verb takes.",
        USAGE,
    ),
    "G4C-C002": Entry(
        "unknown value",
        "An option or argument that takes one of a few values got another one. The message lists the values and "
        "names the nearest.",
        USAGE,
    ),
    "G4C-C003": Entry(
        "no model, or several",
        "compile and estimate take exactly one model: a variant name, a config.json or a checkpoint directory, given "
        "as MODEL or with --variant, --config or --checkpoint.",
        USAGE,
    ),
    "G4C-C004": Entry(
        "unsupported tensor parallel degree",
        "This g4c compiles for one logical NeuronCore, --tp 1. The weights of E2B and E4B fit one core of every "
        "target in bfloat16.",
        USAGE,
    ),
    "G4C-C005": Entry(
        "impossible program shapes",
        "The shapes of the programs contradict each other: a bucket longer than the context, a bucket given twice, "
        "more logit rows than the smallest bucket has positions, or a batch, bucket or context below 1.",
        USAGE,
    ),
    "G4C-C006": Entry(
        "context beyond the model",
        "--max-context, or --context of an estimate, exceeds the model's max_position_embeddings. Positions beyond it "
        "were never trained.",
        USAGE,
    ),
    "G4C-C007": Entry(
        "unknown error code",
        "`g4c explain` was asked for a code that g4c never prints. `g4c explain` without a code lists all of them.",
        USAGE,
    ),
    "G4C-C008": Entry(
        "input file cannot be read",
        "The file named on the command line does not exist, is not text, or may not be read.",
    ),
    "G4C-C009": Entry(
        "disk full",
        "A disk filled up while g4c was writing to it. Bundles are written whole or not at all; a dump directory "
        "keeps the dumps that were finished.",
    ),
    "G4C-C010": Entry(
        "no weights, or several",
        "A run takes its weights from one place: --random-weights SEED, --checkpoint DIR, or the weights packed in "
        "the bundle.",
        USAGE,
    ),
    "G4C-C011": Entry(
        "no prompt, or several",
        "A run takes one prompt: --prompt TEXT or --token-ids 2,17,4.",
        USAGE,
    ),
    "G4C-C012": Entry(
        "the bundle disagrees with Hugging Face",
        "`g4c verify` ran the bundle and the Hugging Face model on the same weights, and a number is outside its "
        "tolerance. The table above the error shows which. Either the compiler is wrong, or the bundle was changed "
        "after it was compiled.",
        4,
    ),
    "G4C-C013": Entry(
        "file refused by the operating system",
        "A file or directory that g4c was told to use cannot be: no permission, a read-only or failing disk, a file "
        "where a directory is needed or the other way round. The message quotes the reason.",
    ),
    "G4C-C014": Entry(
        "dump directory inside the output",
        "A bundle holds what its manifest lists and replaces its directory as a whole, so the dumps of --dump-dir "
        "cannot be kept in it. Name a directory beside it.",
        USAGE,
    ),
    "G4C-C020": Entry(
        "impossible tensor parallel degree",
        "An estimate's --tp is more than the instance has logical cores, less than 1, or does not divide the model's "
        "query heads, so that no even split exists.",
        USAGE,
    ),
    "G4C-C021": Entry(
        "prompt beyond the context",
        "An estimate's --prompt has no tokens or more than the caches have positions, --context.",
        USAGE,
    ),
    "G4C-C022": Entry(
        "two pipelines",
        "--passes-off leaves passes out of the default pipeline, --pipeline replaces it. Give one of them; a pipeline "
        "of your own can leave passes out itself.",
        USAGE,
    ),
    "G4C-C030": Entry(
        "no K to rebuild",
        "--kv v-only caches V alone in layers whose K is computed from the same projection (attention_k_eq_v: the full "
        "layers of 12B, 26B-A4B and 31B). E2B and E4B have none.",
        USAGE,
    ),
    "G4C-C031": Entry(
        "--kv and a pipeline that decides the same",
        "--kv puts rebuild-keys into the pipeline or leaves it out. With --pipeline, either give --kv v-only and leave "
        "rebuild-keys to it, or write the pass into the pipeline and leave --kv out.",
        USAGE,
    ),
    "G4C-C032": Entry(
        "K cannot be rebuilt with this pipeline",
        "--kv v-only was asked for, but rebuild-keys could not prove for every layer of the model that has its K and V "
        "from one projection that K follows from V. With the default pipeline it can; a --pipeline needs canonicalize "
        "and precompute-rope, which make the RoPE tables that K is rebuilt with.",
    ),
    "G4C-C040": Entry(
        "bad --sample",
        "--sample is `host` (the programs return logits), `on-device` (they return the best token of each row and its "
        "log-probability) or `on-device:K` (the K best). K is at least 1 and at most 256 and the vocabulary: each "
        "candidate takes a round over the logits, and beyond that returning the logits is cheaper.",
        USAGE,
    ),
    "G4C-C041": Entry(
        "candidates asked for twice",
        "--sample on-device puts split-logits into the pipeline, and --pipeline has it already. Give one of them.",
        USAGE,
    ),
    "G4C-C042": Entry(
        "kernels asked for twice",
        "--kernels puts tile-contractions and outline-kernels into the pipeline, and --pipeline has outline-kernels\n"
        "already. Give one of them.",
        USAGE,
    ),
}
