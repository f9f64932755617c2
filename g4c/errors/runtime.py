"""Catalogue of runtime errors."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    # R001 to R049: weights.
    "G4C-R001": Entry(
        "weight does not fit the program",
        "A stored tensor, or what the recorded transforms make of it, has another shape or dtype than the program was "
        "compiled for. The bundle and the checkpoint belong to different models.",
    ),
    "G4C-R002": Entry(
        "no space left for the weights",
        "Packed weights take as many bytes as the model's parameters in the program's dtype. Space is reserved before "
        "anything is written, so nothing is left behind.",
    ),
    "G4C-R003": Entry(
        "weights cannot be written",
        "The operating system refused to create or write the file of packed weights. The message quotes the reason.",
    ),
    "G4C-R004": Entry(
        "bad file of packed weights",
        "The file of packed weights is not a whole safetensors file: an interrupted copy, or another file.",
    ),
    "G4C-R005": Entry(
        "packed weights are of another program",
        "The file of packed weights lacks a weight that the program needs, or holds it in another shape or dtype.",
    ),
    # R050 to R099: the CPU backend, the engine, sampling, tokenizers.
    "G4C-R006": Entry(
        "a tensor cannot be told from the packed weights",
        "The bundle holds what the passes made of the checkpoint's tensors. Most of it can be undone, but this tensor\n"
        "was left out or is there in part only. Name the checkpoint it came from.",
    ),
    "G4C-R050": Entry(
        "no CPU backend",
        "jaxlib is missing or is not the version that g4c was made for. The CPU backend uses entry points of jaxlib "
        "that are not public API, so the version is pinned.",
    ),
    "G4C-R051": Entry(
        "XLA cannot compile the program",
        "XLA's CPU compiler, which verifies the HLO module first, refused a program of the bundle. The message quotes "
        "its error. A bundle whose files have their checksums and that still fails here is a bug in g4c's lowering.",
        exit_code=3,
    ),
    "G4C-R052": Entry(
        "execution failed",
        "XLA refused an argument (its size is not that of the program's parameter) or ran out of memory. The message "
        "quotes its error. The session's caches are empty afterwards.",
    ),
    "G4C-R053": Entry(
        "a weight is missing",
        "The program needs a weight that the given weights do not hold. Bundle and weights belong to different models.",
    ),
    "G4C-R054": Entry(
        "input does not fit the program",
        "A program takes `batch` sequences, at most `bucket` tokens each in prefill and exactly one in decode, and as "
        "many logit rows as it was compiled for (--batch, --buckets, --logit-rows).",
    ),
    "G4C-R055": Entry("empty prompt", "The prompt has no tokens. A prompt needs at least one, for instance <bos>."),
    "G4C-R056": Entry(
        "prompt longer than the context",
        "The prompt has more tokens than the caches have positions. Compile with a larger --max-context, or shorten "
        "the prompt.",
    ),
    "G4C-R057": Entry(
        "token id outside of the vocabulary",
        "A token id of the prompt is negative or not below the model's vocabulary size. The tokenizer and the model "
        "belong together; a stand-in or another model's tokenizer makes ids that this model does not have.",
    ),
    "G4C-R058": Entry(
        "no prefill program",
        "The bundle has no prefill program, so a prompt cannot be processed. Compile with --buckets.",
    ),
    "G4C-R059": Entry(
        "too many prompts",
        "A bundle runs a fixed number of sequences at a time, --batch when it was compiled. More prompts were given.",
    ),
    "G4C-R060": Entry(
        "bad sampling option",
        "Temperature is at least 0 (0 is greedy), top-k at least 0 (0 switches it off), top-p above 0 and at most 1 (1 "
        "switches it off), the seed at least 0.",
        exit_code=2,
    ),
    "G4C-R061": Entry(
        "logits are not numbers",
        "The model returned NaN for the position that is sampled. The weights are damaged, or overflow in the dtype "
        "that the bundle was compiled for.",
    ),
    "G4C-R062": Entry(
        "tokenizer cannot be loaded",
        "The directory holds no tokenizer.json and no tokenizer.model, or the file cannot be read. Without a tokenizer "
        "prompts are given as --token-ids.",
    ),
    "G4C-R063": Entry(
        "vocabulary too small for the stand-in tokenizer",
        "The byte-level stand-in needs an id for each of the 256 bytes. The model's vocabulary has fewer; give the "
        "prompt as --token-ids.",
    ),
    "G4C-R070": Entry(
        "sampling needs more candidates than the bundle gives",
        "The bundle was compiled with --sample on-device[:K], so its programs return the K best tokens and their "
        "log-probabilities in place of logits. Greedy needs K = 1, sampling with top-k needs K of at least top-k, "
        "sampling without top-k (0) needs the whole vocabulary: compile with a larger K or with --sample host, or run "
        "with --greedy or a smaller --top-k.",
    ),
    # R071 to R079: kernels on the CPU backend.
    "G4C-R071": Entry(
        "the bundle has no kernels to simulate",
        "--cpu-kernels simulate runs the kernels that a bundle's programs call, instruction by instruction. This one "
        "was compiled with --kernels none, or no kernel could be made for its target, so that its programs call none: "
        "compile it with --kernels attention or all, or run it with --cpu-kernels reference.",
    ),
    "G4C-R072": Entry(
        "a kernel failed",
        "A kernel that XLA called on the CPU backend raised an error that is not the simulator's, or gave results of "
        "other shapes or types than the program wants. This is a bug in g4c.",
        exit_code=70,
    ),
    # R100 to R149: the bundle.
    "G4C-R100": Entry(
        "not a bundle",
        "The path given as a bundle does not exist, is not a directory, or holds no manifest.json. The manifest is "
        "written last, so a directory without one is not a finished bundle. `g4c compile ... -o DIR` makes one.",
    ),
    "G4C-R101": Entry(
        "damaged manifest",
        "manifest.json cannot be read, is not JSON (truncated?), or is not what g4c wrote: it holds a digest of itself"
        " that does not fit. Bundles are made by `g4c compile` and not meant to be edited; compile it again.",
    ),
    "G4C-R102": Entry(
        "other schema version",
        "The bundle was written by a g4c whose manifest has another layout. Nothing is guessed across versions: "
        "compile it again with this g4c, or run it with the g4c that the manifest names under `versions`.",
    ),
    "G4C-R103": Entry(
        "damaged file",
        "A file that the manifest lists is missing, has another size, or has another SHA-256 than when it was "
        "written. Programs are hashed whenever a bundle is opened; packed weights are hashed where they are used.",
    ),
    "G4C-R104": Entry("the output is a file", "The place given with -o is an existing file. A bundle is a directory."),
    "G4C-R105": Entry(
        "the output directory is in use",
        "The directory given with -o exists, is not empty and is not a bundle. g4c replaces a whole directory, so "
        "it only replaces empty directories and earlier bundles.",
    ),
    "G4C-R106": Entry(
        "another g4c is writing there",
        "The staging directory beside the output is locked by a running g4c that writes the same bundle.",
    ),
    "G4C-R107": Entry(
        "no such program",
        "The bundle was not compiled with the program that is asked for. Its programs are `decode` and one "
        "`prefill_<bucket>` for each length of --buckets; `g4c list BUNDLE` shows them.",
    ),
    "G4C-R108": Entry(
        "disk full",
        "The disk filled up while the bundle was being written. What had been written was removed; an earlier "
        "bundle in the same place is untouched.",
    ),
    "G4C-R109": Entry(
        "cannot write the bundle",
        "The operating system refused a write (permissions, a read-only or failing disk). What had been written was"
        " removed; an earlier bundle in the same place is untouched.",
    ),
    # R120 to R129: verification.
    "G4C-R120": Entry(
        "the bundle's IR cannot be compared layer by layer",
        "A layer is compared where it is one call. The bundle was compiled with a pipeline without specialize-layers.",
    ),
}
