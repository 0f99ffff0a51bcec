// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/splice_scribble writes to the pages that splice() brings: a stand-in for
 * code that believes them to be its own, such as crypto that works in place.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pipe_fs_i.h>
#include <linux/splice.h>

static int scribble_actor(struct pipe_inode_info *pipe, struct pipe_buffer *buf,
			  struct splice_desc *sd)
{
	memset_page(buf->page, buf->offset, 'X',
		    min_t(size_t, sd->len, PAGE_SIZE - buf->offset));
	return sd->len;
}

static ssize_t scribble_splice_write(struct pipe_inode_info *pipe,
				     struct file *out, loff_t *ppos, size_t len,
				     unsigned int flags)
{
	struct splice_desc sd = {
		.total_len = len,
		.flags = flags,
	};
	ssize_t ret;

	pipe_lock(pipe);
	ret = __splice_from_pipe(pipe, &sd, scribble_actor);
	pipe_unlock(pipe);
	return ret;
}

static const struct file_operations scribble_fops = {
	.owner		= THIS_MODULE,
	.splice_write	= scribble_splice_write,
};

static struct miscdevice scribble_dev = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "splice_scribble",
	.fops	= &scribble_fops,
};
module_misc_device(scribble_dev);

MODULE_DESCRIPTION("A splice() consumer that writes to what it is given");
MODULE_LICENSE("GPL");
