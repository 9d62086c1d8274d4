"""What looking at heads finds, as plain data. No torch."""

import msgspec


class HeadFigures(msgspec.Struct, frozen=True):
    """One query head, over a text. Shares are of its attention, averaged over all tokens but each window's first.

    Attributes:
        layer: its index.
        head: index of the query head in the layer.
        kv_head: index of the key/value head that it reads.
        entropy: of its attention, in nats: 0 looks at one token, ln(n) at n tokens alike.
        previous_token: share that goes to the token before.
        first_token: share that goes to the first token of the window, which many heads use as a place to rest (a sink).
        delimiter: share that goes to punctuation, line ends and special tokens.
        induction: share that goes, in a random text that is repeated, to the token behind the earlier occurrence of
            this one (Olsson et al. 2022).
        importance: E |dL/dxi| of a factor xi at its output, over windows (Michel, Levy and Neubig 2019, eq. 2).
        relative_importance: the same, divided by the l2 norm over the layer (section 4.1 there).
        nearest_distance: Jensen-Shannon divergence to the head of the layer that attends most alike, in bits: 0 to 1.
    """

    layer: int
    head: int
    kv_head: int
    entropy: float
    previous_token: float
    first_token: float
    delimiter: float
    induction: float
    importance: float
    relative_importance: float
    nearest_distance: float | None


class Inspection(msgspec.Struct, frozen=True):
    """The heads of a model, over a text.

    Attributes:
        model: its name.
        num_tokens: of the text, that were looked at.
        window_tokens: length of the pieces it was cut into.
        loss: mean negative log-likelihood of a token, in nats.
        heads: layer by layer.
        cosine_similarity: [num_layers][num_q_heads][num_q_heads] of the attention maps of two heads of a layer.
        js_divergence: the same with the Jensen-Shannon divergence of what their tokens look at, in bits.
    """

    model: str
    num_tokens: int
    window_tokens: int
    loss: float
    heads: list[HeadFigures]
    cosine_similarity: list[list[list[float]]]
    js_divergence: list[list[list[float]]]


class AblatedHead(msgspec.Struct, frozen=True):
    """What the model loses without one head.

    Attributes:
        layer: its index.
        head: of the layer.
        importance: what was expected; see HeadFigures.relative_importance.
        loss_change: what came: the loss without it, less the loss with all, in nats a token.
    """

    layer: int
    head: int
    importance: float
    loss_change: float


class Ablation(msgspec.Struct, frozen=True):
    """The heads of most and of least importance, each left out in turn."""

    model: str
    num_tokens: int
    window_tokens: int
    loss: float
    most_important: list[AblatedHead]
    least_important: list[AblatedHead]


class Quality(msgspec.Struct, frozen=True):
    """How well a model foretells a text.

    Attributes:
        num_tokens: that were foretold.
        loss: mean negative log-likelihood, in nats a token.
        perplexity: exp(loss).
        top1_agreement: share of tokens where its first choice is the source's.
    """

    num_tokens: int
    loss: float
    perplexity: float
    top1_agreement: float


class Speed(msgspec.Struct, frozen=True):
    """How fast a model runs here, and what a token takes.

    Attributes:
        kv_bytes_per_token: in the cache.
        weights_bytes: as they are loaded.
        prefill_tokens_per_s: of a batch of prompts.
        decode_tokens_per_s: of the same batch.
        batch_size: requests at once.
        prompt_tokens: of each.
    """

    kv_bytes_per_token: int
    weights_bytes: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    batch_size: int
    prompt_tokens: int


class Conversion(msgspec.Struct, frozen=True):
    """What a change of key/value heads did.

    Attributes:
        source: the model.
        destination: the folder that was made.
        method: how heads were joined; "repeat" where none was.
        kv_heads_before: of each layer.
        num_kv_heads: of every layer now.
        is_exact: no head was joined with another, so that the model computes what it did.
        before: on the text that --eval names, the source; None without one.
        after: the new model.
    """

    source: str
    destination: str
    method: str
    kv_heads_before: list[int]
    num_kv_heads: int
    is_exact: bool
    before: Quality | None = None
    after: Quality | None = None


class Pruning(msgspec.Struct, frozen=True):
    """What taking heads out did.

    Attributes:
        source: the model.
        destination: the folder that was made.
        removed: layer and query head of each that went.
        q_heads: query heads of each layer now.
        kv_heads: key/value heads of each layer now.
        before: the source on the text; None where there was none.
        after: the new model on it.
        speed_before: of the source.
        speed_after: of the new model.
    """

    source: str
    destination: str
    removed: list[tuple[int, int]]
    q_heads: list[int]
    kv_heads: list[int]
    before: Quality | None
    after: Quality | None
    speed_before: Speed
    speed_after: Speed
