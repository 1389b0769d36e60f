//! Command: which registry is meant.

use crate::cli::exit::{Code, Ended};
use clap::Args;

/// Where a registry listens by default, ours and the Node one.
const DEFAULT: &str = "http://127.0.0.1:7337";

/// Which registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryUrl {
    /// The registry; without it `AIWG_SERVE_ENDPOINT`, else the one on this host at port 7337
    #[arg(long, visible_alias = "aiwg-serve", env = "AIWG_RS_SERVE_URL", value_name = "URL")]
    serve_url: Option<String>,
}

impl RegistryUrl {
    /// Names one.
    pub fn new(url: String) -> Self {
        Self { serve_url: Some(url) }
    }

    /// Returns the address without a slash at its end.
    ///
    /// # Errors
    /// It is none.
    pub fn resolve(&self) -> anyhow::Result<String> {
        self.resolve_or(None)
    }

    /// The same; where nobody named one, `otherwise` comes before the default.
    ///
    /// # Errors
    /// It is none.
    pub fn resolve_or(&self, otherwise: Option<String>) -> anyhow::Result<String> {
        let named = |url: &String| !url.is_empty();
        let from_node = || std::env::var("AIWG_SERVE_ENDPOINT").ok().filter(named);
        let url = self.serve_url.clone().filter(named).or_else(from_node).or(otherwise);
        let url = url.unwrap_or_else(|| DEFAULT.to_owned());
        let ended = Ended::new(Code::Usage, format!("{url:?} is not the address of a registry"));
        let ended = ended.hint(format!("write it like {DEFAULT}"));
        match reqwest::Url::parse(&url) {
            Ok(address) if matches!(address.scheme(), "http" | "https") => {
                Ok(url.trim_end_matches('/').to_owned())
            }
            Ok(_) => Err(ended.into()),
            Err(error) => Err(ended.because(error).into()),
        }
    }
}
