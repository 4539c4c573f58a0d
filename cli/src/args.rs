//! What can be typed. `settings.rs` says what it means.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint};

use clap_complete::engine::ArgValueCompleter;

use crate::completion;
use crate::failure::EXIT_CODES;
use porism_runtime::options::{Policy, Spread};

use crate::settings::{self, DeviceList, ScheduleArg, parse_duration};

const EXAMPLES: &str = "\
Examples:
  porism run \"Prove that gcd(84, 30) = 6.\"
  porism run deepseek-ai/DeepSeek-V3.2 \"Why is the sky blue?\" --device 0
  porism devices
  porism doctor";

/// Run DeepSeek-V3.2-family models and prove theorems on any GPU
#[derive(Debug, Parser)]
#[command(
    name = "porism",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// When to use colour; `auto` follows NO_COLOR, CLICOLOR_FORCE and the terminal
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = When::Auto, hide_possible_values = true)]
    pub color: When,
    /// Print nothing but the result and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show no progress
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Log more: -v what happens, -vv in detail; RUST_LOG wins
    #[arg(short = 'v', action = ArgAction::Count, global = true)]
    pub log: u8,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum When {
    Auto,
    Always,
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Run),
    Show(Show),
    Plan(Plan),
    Logits(Logits),
    Tokenize(Tokenize),
    Devices(Devices),
    Bench(Bench),
    Doctor(Doctor),
    Prove(Prove),
    Check(Check),
    Report(Report),
    Synth(Synth),
    Completions(Completions),
    Man(Man),
}

impl Command {
    /// The word that was typed for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Show(_) => "show",
            Self::Plan(_) => "plan",
            Self::Logits(_) => "logits",
            Self::Tokenize(_) => "tokenize",
            Self::Devices(_) => "devices",
            Self::Bench(_) => "bench",
            Self::Doctor(_) => "doctor",
            Self::Prove(_) => "prove",
            Self::Check(_) => "check",
            Self::Report(_) => "report",
            Self::Synth(_) => "synth",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}

const MODEL_HELP: &str =
    "A folder, a name in the Hugging Face cache, or nothing for the embedded porism-tiny";
const DEVICE_HELP: &str = "Indices from `porism devices` and `host`, each with a memory budget if wanted: `0`, `0:8GiB`, \
    `0:8GiB,1:4GiB,host` [default: host, and every real GPU at 90 % of its memory that does not slow the others down]";

/// `--device`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    #[arg(long, alias = "dev", value_name = "DEVICE", env = "PORISM_DEVICE", hide_env_values = true, help = DEVICE_HELP)]
    pub device: Option<DeviceList>,
    /// Place experts by how often they were used, as a run with --heat-out has recorded it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub heat: Option<PathBuf>,
    /// How experts are spread over several devices: `home` keeps a layer's on the device that has the layer, `all` divides
    /// each layer's among all, `best` takes what is predicted to generate faster
    #[arg(long, value_name = "HOW", default_value = "best", hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["home", "all", "best"]).try_map(|how| how.parse::<Spread>()))]
    pub spread: Spread,
    /// Let FP8 weights through that are not numbers
    #[arg(long)]
    pub allow_nan: bool,
}

/// Experts that come and go.
#[derive(Debug, Args)]
#[command(next_help_heading = "Device")]
pub struct ExpertArgs {
    /// Who leaves an adapter that has not room for all its experts: `lfru` the least used of late, `lru` the one not used
    /// for longest, `pinned` none that the plan put there
    #[arg(long, value_name = "POLICY", default_value = "lfru", hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["lfru", "lru", "pinned"]).try_map(|policy| policy.parse::<Policy>()))]
    pub expert_cache: Policy,
    /// Write how often each expert was used to FILE, for --heat
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub heat_out: Option<PathBuf>,
    /// Begin when everything but the routed experts is loaded: those are read meanwhile, first the ones that a token waits
    /// for. The tokens are the same
    #[arg(long)]
    pub experts_later: bool,
}

const RUN_EXAMPLES: &str = "\
Examples:
  porism run \"Prove that gcd(84, 30) = 6.\"         the embedded model
  porism run ./DeepSeek-V3.2                        chat, in a terminal
  porism run ./DeepSeek-V3.2 \"Hello\" --no-think -n 200
  porism run ./DeepSeek-V3.2 < question.txt > answer.txt
  porism run ./DeepSeek-V3.2 --ids ids.json --temp 0 --ignore-eos -n 32 --json";

const RUN_DETAILS: &str = "\
The prompt is PROMPT, or stdin when it is piped; in a terminal without a prompt this is a chat. A single argument is the \
model if it is one; otherwise, if it contains white space, it is a prompt for the embedded model.

A model that states what it knows, as the embedded one does, refuses other questions (exit code 2).

The answer goes to stdout. The reasoning before it is shown dimmed in a terminal; where stdout is a file or a pipe, it \
goes to stderr (-q leaves it out). Ctrl-C finishes the token and ends with what was generated; twice quits.

--json prints one object per line: `start` (schema, model, device, prompt_tokens, max_tokens, seed, sampling), `token` \
(id, text) for each token, and `end` (token_ids, text, finish_reason, prompt_tokens, tokens_per_second, …). token_ids are \
the generated ones; text has the reasoning, `</think>` and the answer, and is null without a tokenizer. finish_reason is \
`stop`, `length` (-n tokens), `context_full`, `interrupted` or `error`.";

/// Answer a prompt, or chat
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES, after_long_help = format!("{RUN_DETAILS}\n\n{RUN_EXAMPLES}"))]
pub struct Run {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model_or_prompt: Option<String>,
    /// What to ask; without it stdin, or a chat in a terminal
    #[arg(value_name = "PROMPT")]
    pub prompt_argument: Option<String>,
    #[command(flatten)]
    pub input: RunInput,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub experts: ExpertArgs,
    #[command(flatten)]
    pub output: RunOutput,
}

/// Where the prompt comes from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct RunInput {
    /// The same as the argument MODEL
    #[arg(short, long = "model", value_name = "MODEL", add = ArgValueCompleter::new(completion::model))]
    pub model: Option<String>,
    /// The same as the argument PROMPT
    #[arg(short, long = "prompt", value_name = "TEXT", conflicts_with_all = ["file", "ids"])]
    pub prompt: Option<String>,
    /// Read the prompt from FILE
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Start from the token ids in FILE, a JSON array; `-` is stdin. Needs no tokenizer, adds no BOS
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["file", "system", "raw"])]
    pub ids: Option<PathBuf>,
    /// Instructions before the conversation
    #[arg(long, alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
    #[arg(
        long,
        alias = "thinking",
        overrides_with = "no_think",
        help = "Let the model reason before it answers [default]"
    )]
    pub think: bool,
    /// Ask for an answer without reasoning
    #[arg(long, alias = "no-thinking", overrides_with = "think")]
    pub no_think: bool,
    /// Take the prompt as it is: no chat encoding, no BOS
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    /// Ask a model that states what it knows about something else; nothing of the answer counts, so the exit code is 1
    #[arg(long)]
    pub outside_domain: bool,
}

/// How tokens are chosen, and how many.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Generate at most N tokens [default: 4096, or what the context leaves]
    #[arg(short = 'n', long = "max-tokens", aliases = ["predict", "n-predict"], value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub max_tokens: Option<u32>,
    /// Temperature; 0 always takes the likeliest token [default: the model's, else 1]
    #[arg(long = "temp", alias = "temperature", value_name = "T", allow_negative_numbers = true, value_parser = settings::temperature)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens that make up this share of the probability [default: the model's, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = settings::top_p)]
    pub top_p: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all [default: the model's, else 0]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = settings::whole::<u32>(0, u32::MAX.into()))]
    pub top_k: Option<u32>,
    /// Keep tokens at least P times as likely as the likeliest [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = settings::min_p)]
    pub min_p: Option<f32>,
    /// Divide positive logits of tokens that occurred by X, multiply negative ones [default: 1]
    #[arg(long, alias = "repeat-penalty", value_name = "X", allow_negative_numbers = true, value_parser = settings::repetition_penalty)]
    pub repetition_penalty: Option<f32>,
    /// Seed of the random numbers: the same gives the same text [default: a new one each time]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u64>(0, u64::MAX))]
    pub seed: Option<u64>,
    /// End before this text appears; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Go on after the end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Room for prompt and answer, in tokens [default: prompt + N]
    #[arg(short = 'c', long = "ctx-size", alias = "max-model-len", value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub context: Option<u32>,
}

/// What `run` prints.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct RunOutput {
    /// Print JSON lines: start, token, end
    #[arg(long)]
    pub json: bool,
    /// Print rates and the seed at the end
    #[arg(long)]
    pub verbose: bool,
}

/// Describe a model
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  porism show\n  porism show ./DeepSeek-V3.2 --json")]
pub struct Show {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

const PLAN_EXAMPLES: &str = "\
Examples:
  porism plan deepseek-math-v2 --rig docs/rigs/4x24-mixed.toml
  porism plan ./DeepSeek-V3.2 --device 0:20GiB,1:10GiB,host:64GiB --ctx-size 8192
  porism plan kimi-k2 --rig rig.toml --json";

const PLAN_DETAILS: &str = "\
MODEL may also be a name of the catalogue, or its repository, without weights on this machine: deepseek-math-v2, \
deepseek-v3.2, deepseek-v3.2-exp, deepseek-v3.1, deepseek-v3, deepseek-r1, deepseek-prover-v2-671b, deepseek-v2, \
deepseek-v2-lite, moonlight-16b-a3b, kimi-k2.

Without --device the devices are those that generate fastest together: a card that slows the others down is left out, and \
the plan says how fast it would be with it. What is named is used, and the plan says what would be faster. \
`porism run` with the same --device and context has the same plan.

Weights of the host are pages of the files: what its memory does not hold is read from disk again whenever it is wanted, \
and so are experts that are streamed to cards. The table has these bytes in rows of their own.

A rig is a TOML file of [[device]] tables; --device takes their numbers, from 0 and without `host`. Its keys:
  name        `host` is the CPU side, at most one
  count       so many of them, numbered
  memory      as in `24GB` or `24GiB`
  unified     `true`: its memory is the host's, and need not be given
  bandwidth   what it reads its own memory with by its vendor's word, as in `960GB/s`
  efficiency  the share of that which is reached [default: 80%, for adapters 50%]
  link        what it exchanges with host memory [default: 12GB/s]
  compute     what its mat-muls reach, as in `20TFLOPS` [default: by its bandwidth]
  dispatch    what starting a kernel takes [default: 6us, for adapters 40us]
  disk        what files are read with; one device is enough [default: 3GB/s]
  binding     the largest buffer a kernel binds [default: 4GiB]
Without a rig the devices are this machine's, measured in a second or two.

Bytes are exact. Rates are predicted for one sequence that fills the context: what kernels read and compute, the starting \
of each, and what goes between devices; `porism bench` shows its predictions beside what it measures. The picture has a \
cell for every expert, with the letter or colour of its device; layers that are divided alike stand together.

--heat FILE is a JSON object with `uses`: for each layer a list of how often each expert was picked.";

/// Show which device would hold what, and how fast that would be
#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES, after_long_help = format!("{PLAN_DETAILS}\n\n{PLAN_EXAMPLES}"))]
pub struct Plan {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model_or_catalogued), help = "A folder, a name in the Hugging Face cache or the catalogue, or nothing for the embedded porism-tiny")]
    pub model: Option<String>,
    /// Plan for the devices in FILE instead of this machine's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub rig: Option<PathBuf>,
    /// Room for prompt and answer, in tokens [default: 4096, or what the model allows]
    #[arg(short = 'c', long = "ctx-size", alias = "max-model-len", value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub context: Option<u32>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Make a checkpoint with the true shapes of a known model
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  porism synth deepseek-math-v2 ./sparse\n  porism synth deepseek-math-v2 ./two-layers --layers 2 --random 1"
)]
pub struct Synth {
    /// A name of the catalogue, as `porism plan --help` lists them
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(completion::catalogued))]
    pub name: String,
    /// The folder to make
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
    /// The first N layers only, at most one less of them dense
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub layers: Option<u32>,
    /// Zeros that take no room on disk [default]
    #[arg(long, conflicts_with = "random")]
    pub sparse: bool,
    /// Random values to run with; the same SEED gives the same bytes
    #[arg(long, value_name = "SEED", allow_negative_numbers = true, value_parser = settings::whole::<u64>(0, u64::MAX))]
    pub random: Option<u64>,
}

const LOGITS_DETAILS: &str = "\
OUT.safetensors holds `logits` F32 [T, V]. --trace adds `hidden_states` F32 [L+1, T, D] (0 is the embedding, i+1 the \
residual stream after layer i), for models with experts `expert_ids` I32 [Lmoe, T, K], for models with an indexer \
`dsa_indices` I32 [L, T, index_topk], ascending and filled up with -1. It is written beside OUT and renamed when complete.

prefill takes all ids at once, chunks:N takes N at a time, steps takes one at a time; the logits are the same.";

/// Compute all logits of a token sequence
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  porism logits ./model --ids ids.json --output logits.safetensors\n  porism tokenize < text | porism logits --ids - --output logits.safetensors --trace",
    after_long_help = format!("{LOGITS_DETAILS}\n\nExamples:\n  porism logits ./model --ids ids.json --output logits.safetensors\n  porism tokenize < text | porism logits --ids - --output logits.safetensors --trace"),
)]
pub struct Logits {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// Token ids, a JSON array; `-` is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ids: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "OUT.safetensors", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Write hidden states, expert ids and attended positions as well
    #[arg(long)]
    pub trace: bool,
    /// How the ids go through the model: prefill, chunks:N or steps
    #[arg(long, value_name = "SCHEDULE", default_value = "prefill")]
    pub schedule: ScheduleArg,
    #[command(flatten)]
    pub device: DeviceArgs,
}

const PROVE_DETAILS: &str = "\
PROBLEM is a text, a text or Markdown file, `-` for stdin, or a problem set: a .json, .jsonl, .csv or .tsv file whose rows \
have a `question` and perhaps a `problem_idx` or `id`.

Proofs are written, read by a verifier until one passes, and the best are refined, round after round. A proof passes when \
every counted reading says 1; a reading that says less is judged in turn, and counts as much as the judge agrees. The \
same model reads what it wrote, unless --verifier-model names another one: passing is no certainty.

Everything is saved in a folder, each completion before it counts. The same command goes on from there \
after any end. With the same seed the same proofs come out, whatever is worked on at once; only \
--time-limit and endpoints break that.

With --endpoint a model elsewhere answers: SGLang, vLLM, llama.cpp, or a hosted one. The key comes from an \
environment variable and is written nowhere. An endpoint that is away or still loads its model is waited for \
and costs no attempt, while the others take its requests; what fails by itself is asked again, later each \
time, and costs its attempt only. When nothing is to be hoped for any more the command ends with 5, and the \
same command goes on later, also with other addresses: a model is known by its name and revision. The verifier \
may be another model, here or elsewhere.

A model that states what it knows, as the embedded one does, refuses other problems (exit code 2). \
Where a program can recompute proofs, one that passes its readings passes only if the program \
agrees, and a false statement is called false.

The chosen proof goes to stdout. --json prints one object per line instead: `start`, `completion`, \
`notice`, `proof`, `chosen`, `end`. \
Exits with 0 when a proof of every problem passed, with 1 when not, or when --outside-domain let the \
model try a problem that it does not know.";

const PROVE_EXAMPLES: &str = "\
Examples:
  porism prove \"Prove that gcd(84, 30) = 6.\"
  porism prove IMO2025.json --only IMO2025-1 --model ./DeepSeek-Math-V2 --prompts math_templates.py
  porism prove problem.md --proofs 64 --verifications 64 --rounds 16 --out runs/mine
  porism prove problem.md --endpoint http://localhost:8000/v1 --endpoint-model deepseek-math-v2";

/// Search for a proof
#[derive(Debug, Args)]
#[command(after_help = PROVE_EXAMPLES, after_long_help = format!("{PROVE_DETAILS}\n\n{PROVE_EXAMPLES}"))]
pub struct Prove {
    /// What to prove: a text, a file, a problem set, or `-`
    #[arg(value_name = "PROBLEM", value_hint = ValueHint::FilePath)]
    pub problem: Option<String>,
    /// Take only this problem of a set; may be given several times
    #[arg(long, value_name = "ID")]
    pub only: Vec<String>,
    /// Folder of the run [default: runs/DATE-NAME]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Where DIR holds a run with other settings, start a copy of it beside it
    #[arg(long)]
    pub fork: bool,
    /// Print JSON lines
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub budget: BudgetArgs,
    #[command(flatten)]
    pub prover: ProverArgs,
}

/// How much is searched.
#[derive(Debug, Args)]
#[command(next_help_heading = "Search")]
pub struct BudgetArgs {
    /// Rounds: the first writes, the others refine [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub rounds: Option<u32>,
    /// Proofs per round [default: 8]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub proofs: Option<u32>,
    /// Readings before a proof is given up [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub minimum_readings: Option<u32>,
    /// Let a proof pass with fewer readings, once the lower end of their 95 % interval is P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = settings::share)]
    pub sure: Option<f64>,
    /// Proofs to refine [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub keep: Option<u32>,
    /// Read all proofs of a round and choose among those that pass
    #[arg(long)]
    pub finish_round: bool,
    /// Stop after N tokens per problem
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u64>(1, u64::MAX))]
    pub max_tokens_total: Option<u64>,
    /// Stop after this time and take the best so far: `90s`, `10m`, `2h`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<std::time::Duration>,
}

/// What `prove` and `check` have in common.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ProverArgs {
    #[arg(short, long, value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// A prompts.toml or a published math_templates.py [default: the model's, else the built-in]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub prompts: Option<PathBuf>,
    /// Let a model that states what it knows try other problems; whatever comes of it does not count
    #[arg(long)]
    pub outside_domain: bool,
    /// Leave the proofs to the verifier alone, where a program could recompute them: to measure the verifier
    #[arg(long, hide = true)]
    pub no_recompute: bool,
    /// Readings of a proof [default: 8]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, 100_000))]
    pub verifications: Option<u32>,
    /// Do not judge readings that say less than 1
    #[arg(long)]
    pub no_meta: bool,
    /// Tokens of a proof at most, thinking included [default: 131072, or what the context leaves]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub max_tokens: Option<u32>,
    /// Tokens of a reading at most, thinking included [default: 65536, or what the context leaves]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub max_tokens_per_reading: Option<u32>,
    /// Temperature of proofs [default: 1]
    #[arg(long = "temp", alias = "temperature", value_name = "T", allow_negative_numbers = true, value_parser = settings::temperature)]
    pub temperature: Option<f32>,
    /// Temperature of readings [default: 1; 0.4 for models with a short context]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = settings::temperature)]
    pub reading_temperature: Option<f32>,
    /// Keep the likeliest tokens that make up this share of the probability [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = settings::top_p)]
    pub top_p: Option<f32>,
    /// Seed of the run: the same gives the same proofs [default: the folder's, else 1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u64>(0, u64::MAX))]
    pub seed: Option<u64>,
    /// Completions worked on at once; changes the speed only
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = settings::whole::<u32>(1, 1024))]
    pub parallel: u32,
    /// Room for a prompt and its answer, in tokens; with an endpoint no more is asked for and shown than fits
    #[arg(short = 'c', long = "ctx-size", value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub context: Option<u32>,
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub experts: ExpertArgs,
}

/// Models elsewhere, and a second model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Endpoints")]
#[group(skip)]
#[command(group = ArgGroup::new("where_endpoints_are").args(["endpoint", "endpoint_file"]))]
pub struct EndpointArgs {
    /// Ask the model behind this OpenAI-compatible address, as in `http://localhost:8000/v1`; may be given several times
    #[arg(long, value_name = "URL", requires = "endpoint_model", conflicts_with = "model", value_hint = ValueHint::Url)]
    pub endpoint: Vec<String>,
    /// Ask at the addresses in FILE, one a line; it is read again while the search goes on, so that endpoints may come,
    /// go and move
    #[arg(long, value_name = "FILE", requires = "endpoint_model", conflicts_with_all = ["model", "endpoint"], value_hint = ValueHint::FilePath)]
    pub endpoint_file: Option<PathBuf>,
    /// What the model is called there
    #[arg(long, value_name = "NAME", requires = "where_endpoints_are")]
    pub endpoint_model: Option<String>,
    /// Which weights they are, where the name alone does not tell: a run goes on only with the same
    #[arg(long, value_name = "TEXT", requires = "endpoint_model")]
    pub endpoint_revision: Option<String>,
    /// Environment variable with the key [default: PORISM_ENDPOINT_KEY]
    #[arg(long, value_name = "VARIABLE", requires = "where_endpoints_are")]
    pub endpoint_key_env: Option<String>,
    /// Requests under way at each address
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 16, value_parser = settings::whole::<u32>(1, 1024))]
    pub endpoint_parallel: u32,
    /// Let another model read the proofs: a local one, or with --verifier-endpoint what it is called there
    #[arg(long, value_name = "MODEL", add = ArgValueCompleter::new(completion::model))]
    pub verifier_model: Option<String>,
    /// Let the model behind this address read the proofs; may be given several times
    #[arg(long, value_name = "URL", requires = "verifier_model", value_hint = ValueHint::Url)]
    pub verifier_endpoint: Vec<String>,
    /// Environment variable with its key [default: PORISM_VERIFIER_KEY, at an address of --endpoint its key]
    #[arg(long, value_name = "VARIABLE", requires = "verifier_endpoint")]
    pub verifier_key_env: Option<String>,
    /// Requests under way at each address of the verifier [default: as --endpoint-parallel]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = settings::whole::<u32>(1, 1024))]
    pub verifier_parallel: Option<u32>,
    /// Give an endpoint up that has requests and says nothing to any of them for this long: `90s`, `10m`, `2h`
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub endpoint_timeout: std::time::Duration,
    /// Wait this long for an endpoint that refuses connections or says that it is not ready, before it is given up
    /// [default: 1h, and 20s for one that never answered]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub endpoint_outage: Option<std::time::Duration>,
    /// Send a request that fails by itself N times at most to each endpoint before it is lost
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = settings::whole::<u32>(1, 100))]
    pub endpoint_tries: u32,
}

/// Grade a proof
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  porism check \"Prove that gcd(84, 30) = 6.\" proof.md\n  porism check problem.md proof.md --verifications 64 --json",
    after_long_help = "\
Reads the proof several times and prints each evaluation: 1 complete and rigorous, 0.5 right with omissions, 0 wrong. A \
reading that says less than 1 is judged in turn, and counts as much as the judge agrees. Exits with 0 when every counted \
reading says 1, with 1 when not, or when a program that can recompute the proof finds a flaw. \
A model that states what it knows refuses other problems (exit code 2).

Examples:
  porism check \"Prove that gcd(84, 30) = 6.\" proof.md
  porism check problem.md proof.md --verifications 64 --json"
)]
pub struct Check {
    /// The problem: a text, a file, or `-`
    #[arg(value_name = "PROBLEM", value_hint = ValueHint::FilePath)]
    pub problem: String,
    /// The proof: a text, a file, or `-`
    #[arg(value_name = "PROOF", value_hint = ValueHint::FilePath)]
    pub proof: String,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub prover: ProverArgs,
}

/// Render a run of `prove` as one HTML page
///
/// The page needs no network and no script: problem, proofs with their mathematics, every evaluation, scores, and how
/// sure it is. `prove` writes it by itself at its end; an unfinished run has one too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  porism report runs/2026-11-24-prove-that-gcd-84-30-6")]
pub struct Report {
    /// Folder of the run; report.html is written into it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub run: PathBuf,
}

/// Turn text into token ids
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  printf 'Hello' | porism tokenize ./DeepSeek-V3.2\n  porism tokenize --chat conversation.json --text",
    after_long_help = "\
Reads stdin byte for byte, a trailing newline included, and prints one JSON array of ids; no BOS is added. It needs the \
tokenizer only, no weights.

A conversation is {\"messages\": [{\"role\", \"content\", \"reasoning_content\"?}], \"thinking\": true}; its ids are those of \
the prompt that the model would be given.

Examples:
  printf 'Hello' | porism tokenize ./DeepSeek-V3.2
  porism tokenize --chat conversation.json --text"
)]
pub struct Tokenize {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// Encode the conversation in FILE instead of stdin; `-` is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub chat: Option<PathBuf>,
    /// Print the encoded conversation as text
    #[arg(long, requires = "chat")]
    pub text: bool,
}

/// List GPUs and their limits
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  porism devices\n  porism devices --bench --json")]
pub struct Devices {
    /// Measure how fast each device reads its memory
    #[arg(long)]
    pub bench: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Measure speed
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  porism bench\n  porism bench ./DeepSeek-V3.2 --prefill 512 --decode 128 --depth 0,4096 --batch 1,16",
    after_long_help = "\
Runs every combination of --prefill, --depth and --batch. A run puts DEPTH tokens into the cache, then takes PREFILL tokens \
at once, then DECODE tokens one at a time, for BATCH sequences together. The ids are arbitrary: speed does not depend on \
them.

Examples:
  porism bench
  porism bench ./DeepSeek-V3.2 --prefill 512 --decode 128 --depth 0,4096 --batch 1,16"
)]
pub struct Bench {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// Tokens to take at once
    #[arg(long, value_name = "N,…", allow_negative_numbers = true, value_delimiter = ',', default_value = "128,512", value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub prefill: Vec<u32>,
    /// Tokens to generate
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value = "64", value_parser = settings::whole::<u32>(1, u32::MAX.into()))]
    pub decode: u32,
    /// Tokens in the cache before
    #[arg(
        long,
        value_name = "N,…",
        allow_negative_numbers = true,
        value_delimiter = ',',
        default_value = "0"
    )]
    pub depth: Vec<u32>,
    /// Sequences at a time
    #[arg(long, value_name = "N,…", allow_negative_numbers = true, value_delimiter = ',', default_value = "1", value_parser = settings::whole::<u32>(1, 1024))]
    pub batch: Vec<u32>,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub experts: ExpertArgs,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Find out why it does not work
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  porism doctor\n  porism doctor ./DeepSeek-V3.2")]
pub struct Doctor {
    #[arg(value_name = "MODEL", add = ArgValueCompleter::new(completion::model), help = MODEL_HELP)]
    pub model: Option<String>,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Print what makes a shell complete commands, options and models
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(porism completions bash)                       in ~/.bashrc
  source <(porism completions zsh)                        in ~/.zshrc
  porism completions fish | source                        in ~/.config/fish/config.fish
  porism completions powershell | Out-String | Invoke-Expression")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
    pub shell: String,
}

/// Print the manual page of porism, or write those of all commands
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  porism man | man -l -\n  porism man ~/.local/share/man/man1")]
pub struct Man {
    /// Write porism.1, porism-run.1 and so on into DIR
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_of_other_programs_are_understood() {
        let line = "porism run m p --predict 5 --temperature 0 --max-model-len 9 --system-prompt x --thinking --repeat-penalty 2";
        let Command::Run(run) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!() };
        assert_eq!((run.sampling.max_tokens, run.sampling.context), (Some(5), Some(9)));
        assert_eq!(run.input.system.as_deref(), Some("x"));
    }
}
