//! Gathers commands, so that one system call sends many of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that lets other tasks run once before each write.
///
/// The first of several commands wakes the connection's task, which would send it at once, although
/// tasks that are about to send theirs wait behind it. A write, and the server's read of it, cost
/// more than the rest of a command. So the task goes to the end of the queue first, and then sends
/// what the others have added meanwhile. If no others wait, it runs again at once.
pub(super) struct Gathered<S> {
    stream: S,
    has_yielded: bool,
}

impl<S> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Gathered { stream, has_yielded: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.has_yielded {
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.has_yielded = false;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn each_write_lets_other_tasks_run_once() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Gathered::new(near);
        for _ in 0..2 {
            let mut write = pin!(stream.write(b"ping"));
            assert!(poll!(write.as_mut()).is_pending());
            assert_eq!(write.await.unwrap(), 4, "the task is woken at once");
            far.read_exact(&mut [0; 4]).await.unwrap();
        }
    }
}
