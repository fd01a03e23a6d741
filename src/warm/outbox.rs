//! Posts the jobs of a planned run, portion by portion, for as long as its budget lasts.
//!
//! Promises that wherever a worker is stopped, whoever takes the run over posts every job that the run has, and no other: a job is noted as sent
//! before the broker has it, and as posted afterwards. Refuses to know where jobs are kept and what they are posted to.

use super::{
    carry::Stopped,
    portion::{self, Portion},
};
use crate::{
    backoff::Backoff,
    store::{Outlay, Post, Progress},
};

/// Bodies of jobs that are read and handed to the broker together, in bytes; one that is larger goes alone.
const HANDFUL_BYTES: usize = 4 << 20;

/// The jobs of a run that aren't posted yet, under a claim. Each change is made at once, and only where the claim still holds.
pub(super) trait Outbox {
    /// The next jobs to post: of those that were sent already and aren't noted as posted, or of the others.
    fn next(&mut self, are_sent: bool) -> impl Future<Output = Result<Vec<Post>, Stopped>> + Send;

    /// What the run may spend and has posted, and what became of that.
    fn so_far(&mut self) -> impl Future<Output = Result<(Outlay, Progress), Stopped>> + Send;

    /// Waits until the queues have room for a portion.
    fn room(&mut self) -> impl Future<Output = ()> + Send;

    /// Notes jobs as sent, before they are, and gives their bodies: from now on they are the run's, whatever becomes of this worker.
    fn send(
        &mut self,
        posts: &[Post],
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, Stopped>> + Send;

    /// Hands jobs to the broker.
    fn publish(
        &mut self,
        posts: &[Post],
        bodies: Vec<Vec<u8>>,
    ) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// Notes jobs as posted.
    fn note_posted(&mut self, posts: &[Post]) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// Leaves what isn't sent unposted, for a reason.
    fn leave_rest(&mut self, why: &str) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// Ends posting.
    fn end(&mut self) -> impl Future<Output = Result<(), Stopped>> + Send;
}

/// Posts what is left of a run, until its budget is spent; between two looks at what was posted it waits as `rest` says.
pub(super) async fn post_all(outbox: &mut impl Outbox, mut rest: Backoff) -> Result<(), Stopped> {
    // A worker that was stopped may have handed them to the broker, or not.
    loop {
        let sent = outbox.next(true).await?;
        if sent.is_empty() {
            break;
        }
        post_portion(outbox, &sent).await?;
    }
    let mut posts = Vec::new();
    loop {
        if posts.is_empty() {
            posts = outbox.next(false).await?;
        }
        if posts.is_empty() {
            break;
        }
        let (outlay, progress) = outbox.so_far().await?;
        let later = match portion::next(&outlay, &progress, &posts) {
            Portion::Wait => {
                tokio::time::sleep(rest.next_wait()).await;
                continue;
            }
            Portion::Stop(why) => {
                outbox.leave_rest(&why).await?;
                break;
            }
            Portion::Post(count) => posts.split_off(count.min(posts.len())),
        };
        outbox.room().await;
        post_portion(outbox, &posts).await?;
        posts = later;
        rest.reset();
    }
    outbox.end().await
}

async fn post_portion(outbox: &mut impl Outbox, posts: &[Post]) -> Result<(), Stopped> {
    let mut rest = posts;
    while let Some((some, after)) = rest.split_at_checked(handful(rest)) {
        if some.is_empty() {
            break;
        }
        let bodies = outbox.send(some).await?;
        outbox.publish(some, bodies).await?;
        outbox.note_posted(some).await?;
        rest = after;
    }
    Ok(())
}

/// How many of these jobs are handed over together: one at the least, where there is one.
fn handful(posts: &[Post]) -> usize {
    let mut bytes = 0;
    let fits = posts.iter().take_while(|post| {
        bytes += usize::try_from(post.bytes).unwrap_or_default();
        bytes <= HANDFUL_BYTES
    });
    fits.count().max(1).min(posts.len())
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_handed_over_by_their_bytes() {
        let of = |bytes: &[i32]| {
            let post = |bytes: &i32| Post {
                bytes: *bytes,
                ..Post::default()
            };
            handful(&bytes.iter().map(post).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[1 << 20; 100]), 4);
        assert_eq!(of(&[100 << 20, 1]), 1);
        assert_eq!(of(&[1_000; 128]), 128);
    }
}
