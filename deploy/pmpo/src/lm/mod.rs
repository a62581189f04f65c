//! `pmpo lm`: language models, trained by preferences, asked and written for others.

mod folder;
mod generator;
mod run;
mod settings;
mod train;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use pmpo_language::chat::ChatTemplate;
use pmpo_language::reward::{PairTraining, learn_from_pairs};
use pmpo_language::{Checkpoint, LmConfig, PromptSource, Sampling, Session};
use pmpo_service::telemetry::LogFormat;
use pmpo_update::DeviceChoice;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::failure::{self, Usage};
use crate::output::answer;
use generator::GeneratorArgs;
use train::TrainArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum LmCommand {
    /// Train a model by preferences between its own completions, or go on with a run.
    Train(TrainArgs),
    /// Complete a run's prompts with its learner's newest weights and write what it is worth to a replay service.
    Generator(GeneratorArgs),
    /// Print the configuration of a run as TOML, every key with its value.
    Config {
        /// A key, as `lm.beta=0.5`; repeatable.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Complete prompts.
    Generate(GenerateArgs),
    /// Say how likely texts are: a JSON object a text, with its tokens and `ln p` of each but the first.
    Score {
        /// A run, a folder, a GGUF file, or `smollm2`.
        model: String,
        /// The texts, as they are.
        #[arg(required = true)]
        texts: Vec<String>,
    },
    /// Learn a reward from pairs, as `lm.reward.kind=model` asks for: how often it is right, one JSON object, the last
    /// line.
    Reward(RewardArgs),
    /// Say what a model is worth on held-out prompts: one JSON object, the last line.
    Eval(EvalArgs),
    /// Write a model as a folder in Hugging Face's layout, which transformers loads: f32.
    Export {
        /// A run, a folder, a GGUF file, or `smollm2`.
        model: String,
        /// Folder to write, which must not be there.
        out: PathBuf,
    },
    /// Make a small model over a built-in grammar, from nothing, in Hugging Face's layout.
    Grammar {
        /// Folder to write, which must not be there.
        out: PathBuf,
        /// Steps of its training.
        #[arg(long, default_value_t = 400)]
        steps: u64,
        /// Seeds its first weights and its texts.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// A run, a folder, a GGUF file, or `smollm2`.
    model: String,
    /// What is to be completed; what a user says, where the model knows conversations.
    #[arg(required = true)]
    prompts: Vec<String>,
    /// The prompts are texts as they are, no user's words.
    #[arg(long)]
    plain: bool,
    /// Completions of each prompt.
    #[arg(long, default_value_t = 1)]
    num_generations: usize,
    /// Tokens of a completion at most.
    #[arg(long, default_value_t = 64)]
    max_completion_length: usize,
    /// What logits are divided by; 0 takes the likeliest token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Draws among the likeliest tokens that together have this much.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Seeds what is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct RewardArgs {
    /// File of JSON lines with `prompt`, `chosen` and `rejected`.
    pairs: PathBuf,
    /// Folder to write, which must not be there.
    out: PathBuf,
    /// What it begins with: a run, a folder, a GGUF file, or `smollm2`.
    #[arg(long)]
    model: String,
    /// Steps of its training.
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Pairs of a step.
    #[arg(long, default_value_t = 16)]
    pairs_per_step: usize,
    /// Adam's learning rate.
    #[arg(long, default_value_t = 5e-5)]
    learning_rate: f64,
    /// Layers that are trained, the last ones; 0: all, and the embedding.
    #[arg(long, default_value_t = 0)]
    train_last_layers: usize,
    /// Seeds the order of the pairs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// A run, a folder, a GGUF file, or `smollm2`.
    model: String,
    /// `grammar`, `topics`, or a file of JSON lines with `prompt`.
    #[arg(long)]
    prompts: String,
    /// A key of the section `lm`, as `lm.reward.kind=length`; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the completions as JSON lines.
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
}

/// Runs one of the commands.
pub(crate) fn lm(command: LmCommand, format: LogFormat) -> Result<()> {
    match command {
        LmCommand::Train(args) => train::train(args, format),
        LmCommand::Generator(args) => generator::generator(&args, format),
        LmCommand::Config { set } => {
            let settings = settings::settings(None, &set)?;
            answer!("{}", toml::to_string(&settings)?.trim_end())?;
            Ok(())
        }
        LmCommand::Generate(args) => generate(&args),
        LmCommand::Score { model, texts } => score(&model, &texts),
        LmCommand::Reward(args) => reward(&args),
        LmCommand::Eval(args) => eval(&args),
        LmCommand::Export { model, out } => {
            vacant(&out)?;
            let checkpoint = folder::open_model(&model)?;
            checkpoint.save(&out)?;
            answer!("{}", out.display())?;
            Ok(())
        }
        LmCommand::Grammar { out, steps, seed } => {
            vacant(&out)?;
            if steps == 0 {
                return Err(
                    Usage::new(anyhow::anyhow!("--steps: expected at least 1, got 0")).into(),
                );
            }
            let device = DeviceChoice::Cpu.open()?;
            let (checkpoint, loss) = pmpo_language::over_grammar(steps, seed, &device)?;
            checkpoint.save(&out)?;
            answer!(
                "{}: {loss:.3} nats a token after {steps} steps",
                out.display()
            )?;
            Ok(())
        }
    }
}

/// Refuses a folder that is there.
fn vacant(out: &Path) -> Result<()> {
    match out.exists() {
        true => {
            let error = anyhow::anyhow!("{}: is there; expected a new folder", out.display());
            Err(Usage::new(error).into())
        }
        false => Ok(()),
    }
}

/// Where prompts come from, by the words of a flag.
fn prompts(text: &str) -> PromptSource {
    match text {
        "grammar" => PromptSource::Grammar,
        "topics" => PromptSource::Topics,
        file => PromptSource::File(PathBuf::from(file)),
    }
}

fn generate(args: &GenerateArgs) -> Result<()> {
    let config = LmConfig {
        max_completion_length: args.max_completion_length,
        temperature: args.temperature,
        top_p: args.top_p,
        ..LmConfig::default()
    };
    config.validate().map_err(Usage::new)?;
    let model = folder::open_model(&args.model)?;
    let tokens = args
        .prompts
        .iter()
        .map(|prompt| tokens_of(&model, prompt, args.plain))
        .collect::<Result<Vec<_>>>()?;
    let device = DeviceChoice::Cpu.open()?;
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let policy = model.policy(longest + args.max_completion_length, &device);
    let sampling: Sampling = config.sampling();
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    for (prompt, tokens) in args.prompts.iter().zip(&tokens) {
        let same = vec![tokens.as_slice(); args.num_generations];
        for completion in policy.complete(&same, &sampling, &mut rng)? {
            let completion = model.tokenizer.decode(&completion.tokens)?;
            let line = serde_json::json!({ "prompt": prompt, "completion": completion });
            answer!("{line}")?;
        }
    }
    Ok(())
}

fn tokens_of(model: &Checkpoint, prompt: &str, plain: bool) -> Result<Vec<u32>> {
    let plain = plain || model.template == ChatTemplate::Plain;
    Ok(model.prompt(prompt, plain).map_err(Usage::new)?)
}

fn score(model: &str, texts: &[String]) -> Result<()> {
    let model = folder::open_model(model)?;
    let tokens = texts
        .iter()
        .map(|text| tokens_of(&model, text, true))
        .collect::<Result<Vec<_>>>()?;
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let policy = model.policy(longest, &DeviceChoice::Cpu.open()?);
    for (text, tokens) in texts.iter().zip(&tokens) {
        let all = policy.log_probabilities(&[tokens]).map_err(Usage::new)?;
        let line = serde_json::json!({
            "text": text,
            "tokens": tokens,
            "log_probabilities": all[0],
        });
        answer!("{line}")?;
    }
    Ok(())
}

fn reward(args: &RewardArgs) -> Result<()> {
    vacant(&args.out)?;
    for (flag, count) in [
        ("steps", args.steps),
        ("pairs-per-step", args.pairs_per_step as u64),
    ] {
        if count == 0 {
            let error = anyhow::anyhow!("--{flag}: expected at least 1, got 0");
            return Err(Usage::new(error).into());
        }
    }
    let training = PairTraining {
        steps: args.steps,
        pairs_per_step: args.pairs_per_step,
        learning_rate: args.learning_rate,
        train_last_layers: args.train_last_layers,
        seed: args.seed,
    };
    if !(args.learning_rate > 0.0 && args.learning_rate.is_finite()) {
        let got = args.learning_rate;
        let error = anyhow::anyhow!("--learning-rate: expected a number above 0, got {got}");
        return Err(Usage::new(error).into());
    }
    let model = folder::open_model(&args.model)?;
    let report = learn_from_pairs(model, &args.pairs, training, &args.out);
    let report = report.map_err(folder::as_usage)?;
    answer!("{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn eval(args: &EvalArgs) -> Result<()> {
    let config = settings::settings(None, &args.set)?;
    let model = folder::open_model(&args.model)?;
    let device = DeviceChoice::Cpu.open()?;
    let mut session = Session::new(config.lm, model, &prompts(&args.prompts), None, &device)
        .map_err(folder::as_usage)?;
    let evaluation = session.evaluate()?;
    if let Some(path) = &args.samples {
        folder::write_samples(path, 0, &evaluation.samples).map_err(failure::storage(path))?;
    }
    let line = serde_json::json!({
        "reward_mean": evaluation.reward_mean,
        "reward_std": evaluation.reward_std,
        "mean_length": evaluation.mean_length,
        "clipped_ratio": evaluation.clipped_ratio,
        "repeated": evaluation.repeated,
        "log_probability": evaluation.start_log_probability,
        "parses": evaluation.parses,
        "prompts": evaluation.samples.len(),
    });
    answer!("{line}")?;
    Ok(())
}
