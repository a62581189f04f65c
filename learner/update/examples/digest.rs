use burn::tensor::Device;
use pmpo_update::*;
use pmpo_losses::*;
use pmpo_policy::*;
use pmpo_types::{ColumnBatch, SampledBatch, SampledItems, TableCounters, step};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

fn main() {
    let joint = KlPenalty::Joint(JointKl { beta: 1.0 });
    let base = || { let mut c = AgentConfig::default(); c.update.n_step = 1; c.update.discount = 1.0; c.update.reward_scale = RewardScaleConfig::Fixed(0.1); c };
    let with = |f: &dyn Fn(&mut AgentConfig)| { let mut c = base(); f(&mut c); c };
    let cases: Vec<(&str, AgentConfig)> = vec![
        ("default", base()),
        ("relu", with(&|c| { let t = TorsoConfig { hidden_sizes: vec![64, 48, 32], activation: Activation::LayerNormRelu, ..Default::default() }; c.policy.torso = t.clone(); c.critic.torso = t; })),
        ("categorical", with(&|c| { c.policy.head = HeadConfig::Categorical(CategoricalHead::default()); c.update.policy_loss = PolicyLoss::Pmpo(PmpoConfig { kl: joint.clone(), ..Default::default() }); })),
        ("c51", with(&|c| { c.update.discount = 0.995; c.critic.loss = CriticLoss::Categorical(C51Config::default()); })),
        ("mpo", with(&|c| c.update.policy_loss = PolicyLoss::Mpo(MpoConfig::default()))),
        ("dpo", with(&|c| c.update.policy_loss = PolicyLoss::Dpo(DpoConfig::default()))),
    ];
    let [o, a, b] = [24, 6, 256];
    for (name, config) in cases {
        let mut state = TrainState::new(&config, [o, a], 3, &Device::flex()).unwrap();
        for i in 0..50 {
            let mut rng = ChaCha8Rng::seed_from_u64(7 + i);
            let mut normal = |n: usize| -> Vec<f32> { StandardNormal.sample_iter(&mut rng).take(n).collect() };
            let (obs, act, rew, next) = (normal(b * o), normal(b * a), normal(b), normal(b * o));
            let d = if name == "c51" { let near = (0.95f64 / 0.995) as f32; (-40i32..40).map(|k| f32::from_bits((near.to_bits() as i32 + k) as u32)).find(|d| (0.995 * f64::from(*d)) as f32 == 0.95f32).unwrap() } else { 0.95f32 };
            let mut cols: Vec<Vec<u8>> = vec![Vec::new(); 7];
            let mut put = |c: usize, v: &[f32]| cols[c].extend(v.iter().flat_map(|x| x.to_le_bytes()));
            for i in 0..b {
                put(0, &obs[i * o..(i + 1) * o]); put(0, &next[i * o..(i + 1) * o]);
                put(1, &act[i * a..(i + 1) * a]); put(1, &vec![0.0; a]);
                put(2, &[rew[i], 0.0]); put(3, &[d, 0.0]); put(4, &[0.0, 0.0]);
            }
            cols[5] = vec![0; 16 * b];
            cols[6] = (0..b).flat_map(|_| [1i64, 1]).flat_map(i64::to_le_bytes).collect();
            let columns = ColumnBatch::new(&step::signature(o, a), 2 * b, cols.into_iter().map(Into::into).collect()).unwrap();
            let sampled = SampledBatch { columns, counters: TableCounters::default(), items: SampledItems::default() };
            let batch = state.prepare(&sampled);
            state.update(&batch);
        }
        let file = state.to_file();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let mut lines = Vec::new();
        for (tensor, view) in file.tensors() {
            if tensor.contains("adam") || tensor.starts_with("duals") || tensor.starts_with("reward") { continue; }
            let digest: String = Sha256::digest(view.data()).iter().take(8).map(|x| format!("{x:02x}")).collect();
            lines.push(format!("{name} {tensor} {digest}"));
        }
        lines.sort();
        lines.iter().for_each(|line| println!("{line}"));
    }
}
